"""Language models: text of their own, other vocabularies and tokenizers, reasons."""
