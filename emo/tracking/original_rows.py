"""The eleven experiments of the original project (2020), as its description lists them: history."""

import re

_TABLE = """
1  19.12.20 resnet50 нет 10 34 SGD         Flatten Dense(1024)
2  22.12.20 vgg16    нет 10 14 SGD         Flatten Dense(512)
4  23.12.20 Xception нет 10 34 SGD         Flatten Dense(1024)
5  24.12.20 Xception да  10 32 SGD         Flatten Dense(1024)
6  25.12.20 Xception да  10 31 Adam(0.001) GlobalAveragePooling2D Dropout(0.2)
7  27.12.20 Xception да  15 31 Adam(0.001) GlobalAveragePooling2D Dropout(0.2)
8  28.12.20 Xception да  17 26 Adam(0.01)  GlobalAveragePooling2D Dropout(0.5) Dense(512) Dense(128)
9  30.12.20 Xception да  20 34 SGD         GlobalAveragePooling2D Dropout(0.2) Dense(1024)
10 03.01.21 resnet50 да  20 33 SGD         GlobalAveragePooling2D Dropout(0.2) Dense(1024)
11 04.01.21 resnet50 да  40 34 SGD         GlobalAveragePooling2D Dropout(0.2) Dense(1024)
12 05.01.21 resnet50 да  20 44 SGD         GlobalAveragePooling2D
"""
_SHORT = {  # what the original table says at length
    "Flatten": "Flatten()",
    "GlobalAveragePooling2D": "GlobalAveragePooling2D()",
    "SGD": "SGD(learning_rate=0.01, momentum=0.9)",
    "Adam(0.001)": "Adam(learning_rate=0.001)",
    "Adam(0.01)": "Adam(learning_rate=0.01)",
    "да": "да / yes",
    "нет": "нет / no",
}


def _row(line: str) -> dict:
    number, day, base, augmented, epochs, accuracy, optimizer, *layers = line.split()
    layers = [
        _SHORT.get(each, re.sub(r"Dense\((\d+)\)", r"Dense(\1, activation='relu')", each)) for each in layers
    ]
    layers.append("Dense(p_num_classes, activation='softmax')")
    unfrozen = "Разморожены слои из блока «conv5» базовой модели\n" if number == "12" else ""
    return {
        "number": int(number),
        "date": day,
        "base_model": base,
        "extra_layers": unfrozen + ",\n".join(f"tf.keras.layers.{each}" for each in layers),
        "optimizer": f"tf.keras.optimizers.{_SHORT[optimizer]}",
        "loss": "categorical_crossentropy",
        "augmentation": _SHORT[augmented],
        "epochs": int(epochs),
        "val_accuracy": int(accuracy),
    }


ORIGINAL_ROWS = tuple(_row(line) for line in _TABLE.strip().splitlines())
ORIGINAL_ROWS[-1]["learning_curve"] = "model/emo_classificator_best_210105121553_resnet50_e20_aug1_acc44.png"
