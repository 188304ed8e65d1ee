"""make demo: the three notebooks, headless and in order, on the embedded sample set, in the folder demo/.

Other photos, another experiment: make demo ARGS="--source my.zip --experiment 12 --changes '{\"epochs\": 2}'"
"""

import argparse
import json
import logging
import sys
import time

import papermill

from emo import environment
from emo.paths import PROJECT_ROOT, get_paths
from emo.tracking import table as runlog

DEMO = PROJECT_ROOT / "demo"
# emo_mini's last block learns; what the frozen ones make of the photos is computed once
CHANGES = {
    "weights": "emo_mini",
    "unfreeze": "block4",
    "views": 3,
    "learning_rate": 3e-3,
    "ema": 0.0,
    "batch_size": 32,
    "epochs": 10,
}


def main() -> None:
    """Runs the notebooks and prints what they made. Everything stays below demo/, safe to run again."""
    options = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0])
    options.add_argument("--source", default="sample", help="what the prep notebook's SOURCE takes")
    options.add_argument(
        "--experiment", default="emo_mini", help="what the train notebook's EXPERIMENT takes"
    )
    options.add_argument("--changes", type=json.loads, help="what its CHANGES takes, as JSON")
    chosen = options.parse_args()
    changes = chosen.changes or (CHANGES if chosen.experiment == "emo_mini" else {})

    started = time.monotonic()
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
