"""Uploads the models that come with the project to the Hugging Face Hub: `python -m tools.publish OWNER`.

Each `.h5` that model/README.md links to becomes OWNER/<its name>, with card, learning curve and checksum.
HF_TOKEN is to be a token that may write there. With --dry-run what would be uploaded is printed.
"""

import argparse
import re
import sys
from pathlib import Path

from emo.errors import UserError
from emo.inference.hub import prepare, push
from emo.paths import PROJECT_ROOT

LINK = re.compile(r"\]\(([\w.-]+\.h5)\)")


def shipped(readme: Path) -> list[Path]:
    """The models that a README links to beside itself. Raises UserError for one that is not there."""
    models = [
        readme.parent / name for name in dict.fromkeys(LINK.findall(readme.read_text(encoding="utf-8")))
    ]
    if missing := [model.name for model in models if not model.is_file()]:
        raise UserError(f"{readme} links to {', '.join(missing)}, which is not there.")
    return models


def main() -> None:
    """Uploads them, or says what it would upload; a mistake is one sentence, and exit code 2."""
    options = argparse.ArgumentParser(prog="tools.publish", description=__doc__.splitlines()[0])
    options.add_argument("owner", metavar="OWNER", help="you, or an organisation of yours, on the Hub")
    options.add_argument(
        "--license", default="other", help="as the Hub names it, such as cc-by-nc-4.0 (other)"
    )
    options.add_argument("--private", action="store_true", help="for the owner's eyes alone")
    options.add_argument("--dry-run", action="store_true", help="print what would be uploaded")
    chosen = options.parse_args()
    try:
        for model in shipped(PROJECT_ROOT / "model" / "README.md"):
            repo = f"{chosen.owner}/{model.stem}"
            if not chosen.dry_run:
                push(model, repo, chosen.private, chosen.license)
                continue
            print(f"hf://{repo}")
            for name, content in prepare(model, repo, chosen.license).items():
                size = len(content) if isinstance(content, bytes) else content.stat().st_size
                print(f"{size:12,} bytes  {name}")
                if isinstance(content, bytes):
                    print(content.decode())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
