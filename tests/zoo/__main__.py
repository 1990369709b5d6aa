"""`python -m tests.zoo` (`make zoo`): check every model and write the table of docs/zoo.md."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.zoo import language_models, sound_models, vision_models, written
from tests.zoo.checks import DOCUMENT, HEADER, Stranger, check

_SECTIONS = {
    "Language": language_models.MODELS,
    "Images": vision_models.MODELS,
    "Sound, and several inputs": sound_models.MODELS,
    "Hand-written": written.MODELS,
}


def main() -> None:
    """Replace everything below the first heading of level two."""
    introduction = DOCUMENT.read_text(encoding="utf-8").partition("\n## ")[0].rstrip()
    parts = [introduction, ""]
    with Stranger() as stranger:
        for title, models in _SECTIONS.items():
            parts += [f"## {title}", "", *HEADER]
            for make in models.values():
                with tempfile.TemporaryDirectory() as folder:
                    row = check(make(), Path(folder), stranger)
                parts.append(str(row))
                print(row, flush=True)
            parts.append("")
    DOCUMENT.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
