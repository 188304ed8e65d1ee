"""The original project's eleven experiments, word for word."""

import re

from emo.tracking.original_rows import ORIGINAL_ROWS
from emo.tracking.table import COLUMNS, create_table, read_table
from emo.tracking.workbook import text_of
from tests.tracking.helpers import book_rows, csv_rows

ORIGINAL = [  # number, base model, augmentation, epochs, validation accuracy, as its description lists them
    (1, "resnet50", "нет / no", 10, 34),
    (2, "vgg16", "нет / no", 10, 14),
    (4, "Xception", "нет / no", 10, 34),
    (5, "Xception", "да / yes", 10, 32),
    (6, "Xception", "да / yes", 10, 31),
    (7, "Xception", "да / yes", 15, 31),
    (8, "Xception", "да / yes", 17, 26),
    (9, "Xception", "да / yes", 20, 34),
    (10, "resnet50", "да / yes", 20, 33),
    (11, "resnet50", "да / yes", 40, 34),
    (12, "resnet50", "да / yes", 20, 44),
]
ORIGINAL_DATES = (
    "19.12.20 22.12.20 23.12.20 24.12.20 25.12.20 27.12.20 28.12.20 30.12.20 03.01.21 04.01.21 05.01.21"
)


def test_the_original_rows_are_in_both_files(paths):
    create_table(paths)
    for rows in (book_rows(paths), csv_rows(paths), read_table(paths).to_dict("records")):
        keys = ("number", "base_model", "augmentation", "epochs", "val_accuracy")
        assert [
            tuple(str(int(row[k])) if k in ("number", "epochs", "val_accuracy") else row[k] for k in keys)
            for row in rows
        ] == [(str(n), base, said, str(e), str(acc)) for n, base, said, e, acc in ORIGINAL]
        assert " ".join(text_of(row["date"]) for row in rows) == ORIGINAL_DATES
    assert csv_rows(paths)[-1]["learning_curve"] == (
        "model/emo_classificator_best_210105121553_resnet50_e20_aug1_acc44.png"
    )
    assert isinstance(book_rows(paths)[0]["val_accuracy"], int)


def test_the_original_texts_are_clean():
    text = "\n".join(row["extra_layers"] + row["optimizer"] + row["loss"] for row in ORIGINAL_ROWS)
    assert not re.search(r"<br>|\\|\]|(?<!t)f\.keras", text)
    assert ORIGINAL_ROWS[6]["extra_layers"].split("\n") == [
        "tf.keras.layers.GlobalAveragePooling2D(),",
        "tf.keras.layers.Dropout(0.5),",
        "tf.keras.layers.Dense(512, activation='relu'),",
        "tf.keras.layers.Dense(128, activation='relu'),",
        "tf.keras.layers.Dense(p_num_classes, activation='softmax')",
    ]
    assert ORIGINAL_ROWS[10]["extra_layers"].startswith("Разморожены слои из блока «conv5» базовой модели\n")
    assert ORIGINAL_ROWS[6]["optimizer"] == "tf.keras.optimizers.Adam(learning_rate=0.01)"
    assert ORIGINAL_ROWS[0]["optimizer"] == "tf.keras.optimizers.SGD(learning_rate=0.01, momentum=0.9)"


def test_a_row_names_the_first_ten_columns():
    assert list(COLUMNS)[:10] == list(ORIGINAL_ROWS[-1])
