"""make demo: the three notebooks, headless and in order, on the embedded sample set, in the folder demo/.

Other photos, another experiment: make demo ARGS="--source my.zip --experiment 12 --changes '{\"epochs\": 2}'"
"""

import argparse
import json
import logging
import sys
import time

import papermill

from emo import environment, runlog
from emo.backbones import build_backbone
from emo.errors import UserError
from emo.paths import PROJECT_ROOT, get_paths

DEMO = PROJECT_ROOT / "demo"
FROM_IMAGENET = {"image_size": 96, "epochs": 6}
FROM_SCRATCH = {
    "backbone": "resnet50",
    "weights": None,
    "unfreeze": "all",
    "image_size": 48,
    "batch_size": 16,
    "epochs": 5,
    "augment": False,
}


def default_changes() -> dict:
    """ImageNet weights where they are cached or can be fetched, else a small network from scratch."""
    try:
        build_backbone("xception", FROM_IMAGENET["image_size"], "imagenet")
    except UserError as error:
        print(error)
        print(
            f"So the demo trains all layers of {FROM_SCRATCH['backbone']} from scratch at "
            f"{FROM_SCRATCH['image_size']} px: it shows the way, not what pretrained weights give."
        )
        return FROM_SCRATCH
    print("The demo trains a head on Xception with ImageNet weights, frozen.")
    return FROM_IMAGENET


def main() -> None:
    """Runs the notebooks and prints what they made. Everything stays below demo/, safe to run again."""
    options = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0])
    options.add_argument("--source", default="sample", help="what the prep notebook's SOURCE takes")
    options.add_argument("--experiment", default="6", help="what the train notebook's EXPERIMENT takes")
    options.add_argument("--changes", type=json.loads, help="what its CHANGES takes, as JSON")
    chosen = options.parse_args()

    started = time.monotonic()
    changes = default_changes() if chosen.changes is None else chosen.changes
    notebooks = {
        "emo_classificator_prep_data": {"SOURCE": chosen.source},
        "emo_classificator_train": {"EXPERIMENT": chosen.experiment, "CHANGES": changes},
        "emo_classificator_test": {},
    }
    DEMO.mkdir(exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of every Colab form it cannot parse
    for name, parameters in notebooks.items():
        print(f"\n{name}.ipynb", flush=True)
        try:
            papermill.execute_notebook(
                str(PROJECT_ROOT / f"{name}.ipynb"),
                str(DEMO / f"{name}.ipynb"),
                parameters={"ROOT": str(DEMO)} | parameters,
                cwd=str(PROJECT_ROOT),
            )
        except papermill.PapermillExecutionError as error:
            sys.exit(f"{error.ename}: {error.evalue}\nThe notebook as it stopped: {DEMO / name}.ipynb")
    row = runlog.read_table(get_paths(DEMO)).iloc[-1]
    print(f"\nThe new row of {DEMO / 'experiments.xlsx'}:\n{row[row != ''].dropna().to_string()}\n")
    print(f"validation accuracy  {row.val_accuracy} %")
    print(f"model                {DEMO / 'model' / row.model_file}")
    print(f"learning curve       {DEMO / row.learning_curve}")
    print(f"\n{environment.device_name()}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
