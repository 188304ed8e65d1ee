"""make demo: the three notebooks, headless and in order, on the embedded sample set, in the folder demo/."""

import logging
import time

import papermill

from emo import environment, runlog
from emo.backbones import build_backbone
from emo.errors import UserError
from emo.paths import PROJECT_ROOT, get_paths

DEMO = PROJECT_ROOT / "demo"
FROM_IMAGENET = ("6", {"image_size": 96, "epochs": 6})
FROM_SCRATCH = (
    "6",
    {
        "backbone": "resnet50",
        "weights": None,
        "unfreeze": "all",
        "image_size": 48,
        "batch_size": 16,
        "epochs": 8,
    },
)


def training_parameters() -> tuple[str, dict]:
    """ImageNet weights where they are cached or can be fetched, else a small network from scratch."""
    try:
        build_backbone("xception", FROM_IMAGENET[1]["image_size"], "imagenet")
        print("Training a head on Xception with ImageNet weights, frozen.")
        return FROM_IMAGENET
    except UserError as error:
        print(error)
        changes = FROM_SCRATCH[1]
        print(
            f"So the demo trains all layers of {changes['backbone']} from scratch at "
            f"{changes['image_size']} px: it shows the way, not the accuracy that pretrained weights give."
        )
        return FROM_SCRATCH


def main() -> None:
    """Runs the notebooks and prints what they made. Everything stays below demo/, safe to run again."""
    started = time.monotonic()
    experiment, changes = training_parameters()
    notebooks = {
        "emo_classificator_prep_data": {"SOURCE": "sample"},
        "emo_classificator_train": {"EXPERIMENT": experiment, "CHANGES": changes},
        "emo_classificator_test": {},
    }
    DEMO.mkdir(exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of every Colab form it cannot parse
    for name, parameters in notebooks.items():
        print(f"\n{name}.ipynb", flush=True)
        papermill.execute_notebook(
            str(PROJECT_ROOT / f"{name}.ipynb"),
            str(DEMO / f"{name}.ipynb"),
            parameters={"ROOT": str(DEMO)} | parameters,
            cwd=str(PROJECT_ROOT),
        )
    row = runlog.read_table(get_paths(DEMO)).iloc[-1]
    print(f"\nThe new row of {DEMO / 'experiments.xlsx'}:\n{row.dropna().to_string()}\n")
    print(f"validation accuracy  {row.val_accuracy} %")
    print(f"model                {DEMO / 'model' / row.model_file}")
    print(f"learning curve       {DEMO / row.learning_curve}")
    print(f"\n{environment.device_name()}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
