"""Models as Keras 2 saved them, each with Keras 2's own answers: what `emo.load_classifier` must give again.

The small ones in tests/data/ were made by the seed's own TensorFlow, on Python 3.8:

    pip install tensorflow-cpu==2.3.0 "protobuf<3.21" && python -m tools.make_keras2_fixtures tests/data

Under a TensorFlow of today it takes Keras 2 from the package tf_keras (`pip install --no-deps tf_keras`, of
the same minor version as TensorFlow). With a backbone's name it puts the seed's four heads on the whole of
it, nested and flat, as the slow test does: `python -m tools.make_keras2_fixtures FOLDER resnet50`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

try:
    import tf_keras as keras
except ImportError:
    from tensorflow import keras

layers = keras.layers
CLASSES = 9
# README's table of experiments, without the classifying layer; "conv5" unfreezes from there on
HEADS = {
    "flatten": [("Flatten",), ("Dense", 1024)],
    "dense": [("GlobalAveragePooling2D",), ("Dropout", 0.2), ("Dense", 1024)],
    "two_dense": [("GlobalAveragePooling2D",), ("Dropout", 0.5), ("Dense", 512), ("Dense", 128)],
    "conv5": [("GlobalAveragePooling2D",)],
}
BACKBONES = {
    "resnet50": ("ResNet50", "caffe", 32),
    "vgg16": ("VGG16", "caffe", 32),
    "xception": ("Xception", "tf", 71),
}
LAST_BLOCK = {"resnet50": "conv5", "vgg16": "block5", "xception": "block14"}


def whole_backbone(name: str):
    """keras.applications' own, with a random start."""
    application, _, size = BACKBONES[name]
    return getattr(keras.applications, application)(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )


def small_backbone(name: str, size: int = 32):
    """A few layers of each kind that the backbone has, under its names."""
    images = x = keras.Input((size, size, 3))
    if name == "vgg16":
        for block in ("block1", "block5"):
            x = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"{block}_conv1")(x)
            x = layers.MaxPooling2D(2, strides=2, name=f"{block}_pool")(x)
    elif name == "resnet50":
        x = layers.ZeroPadding2D(3, name="conv1_pad")(x)
        x = layers.Conv2D(8, 7, strides=2, name="conv1_conv")(x)
        x = layers.BatchNormalization(epsilon=1.001e-5, name="conv1_bn")(x)
        x = shortcut = layers.Activation("relu", name="conv1_relu")(x)
        x = layers.Conv2D(8, 1, name="conv5_block3_1_conv")(x)
        x = layers.BatchNormalization(epsilon=1.001e-5, name="conv5_block3_1_bn")(x)
        x = layers.Add(name="conv5_block3_add")([shortcut, x])
        x = layers.Activation("relu", name="conv5_block3_out")(x)
    else:
        x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="block1_conv1")(x)
        x = shortcut = layers.BatchNormalization(name="block1_conv1_bn")(x)
        x = layers.SeparableConv2D(8, 3, padding="same", use_bias=False, name="block14_sepconv1")(x)
        x = layers.BatchNormalization(name="block14_sepconv1_bn")(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same", name="block14_pool")(x)
        residual = layers.Conv2D(8, 1, strides=2, padding="same", use_bias=False)(shortcut)
        x = layers.add([x, layers.BatchNormalization()(residual)])
    return keras.Model(images, x, name=name)


def seed_model(backbone, head: str, form: str, units: int = 1024):
    """The seed's network; `form` is "nested" (Sequential), "called" (functional, with base(x)) or "flat"."""
    backbone.trainable = head == "conv5"
    if head == "conv5":
        for layer in backbone.layers:
            layer.trainable = layer.name.startswith(LAST_BLOCK[backbone.name])
    head_layers = [
        layers.Dense(min(said[1], units), activation="relu")
        if said[0] == "Dense"
        else getattr(layers, said[0])(*said[1:])
        for said in HEADS[head]
    ]
    head_layers.append(layers.Dense(CLASSES, activation="softmax"))
    if form == "nested":
        return keras.Sequential([backbone, *head_layers])
    images = keras.Input(backbone.input_shape[1:]) if form == "called" else backbone.input
    x = backbone(images, training=False) if form == "called" else backbone.output
    for layer in head_layers:
        x = layer(x)
    return keras.Model(images, x)


def grey_model():
    """A stranger's: 48 px, grey, seven classes, with layers that the seed never used."""
    return keras.Sequential(
        [
            layers.Conv2D(8, 3, strides=2, input_shape=(48, 48, 1), activation="relu"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.LeakyReLU(0.1),
            layers.AveragePooling2D(),
            layers.Dropout(0.25),
            layers.Conv2D(7, 3, padding="same"),
            layers.GlobalAveragePooling2D(),
            layers.Activation("softmax", name="predictions"),
        ]
    )


def logits_model():
    """The form of TensorFlow's own tutorial: augmentation and scaling inside, logits out."""
    preprocessing = layers if hasattr(layers, "Rescaling") else layers.experimental.preprocessing
    augmentation = [
        preprocessing.RandomFlip("horizontal", input_shape=(32, 32, 3)),
        preprocessing.RandomZoom(0.1),
    ]
    return keras.Sequential(
        [
            keras.Sequential(augmentation),
            preprocessing.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )


def randomize(model, seed: int) -> None:
    """Weights as after training: no bias is 0, no BatchNormalization the identity."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if len(shape) > 1:
            fan_in = np.prod(shape[:-1]) if "depthwise" not in weight.name else np.prod(shape[:2])
            value = rng.normal(0, (2 / fan_in) ** 0.5, shape)
        elif "gamma" in weight.name or "variance" in weight.name:
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        weight.assign(value.astype("float32"))


def pictures_of(shape) -> np.ndarray:
    """Six in 0–255, each noise on a colour of its own."""
    rng = np.random.default_rng(0)
    colors, noise = (rng.integers(0, 256, (6, side, side, shape[2])) for side in (1, shape[0]))
    return ((2 * colors + noise) // 3).astype("uint8")


def save(model, folder: Path, name: str, preprocessing: str, optimizer: bool = False) -> None:
    """`name`.h5 and, in `name`.npz, pictures in 0–255 with the probabilities that Keras 2 gives for them."""
    if optimizer:  # as the seed's ModelCheckpoint did: compiled and fitted, its momenta inside
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "categorical_crossentropy", ["accuracy"])
        model.fit(np.zeros((1, *model.input_shape[1:])), np.eye(model.output_shape[-1])[:1], verbose=0)
    randomize(model, seed=len(name))
    pictures = pictures_of(model.input_shape[1:])
    prepared = pictures.astype("float32")
    if preprocessing != "none":
        prepared = keras.applications.imagenet_utils.preprocess_input(prepared, mode=preprocessing)
    logits = model.layers[-1].get_config().get("activation") == "linear"
    last = [layer for layer in model.layers if layer.weights][-1]
    while True:  # until no answer is certain: certain ones would be equal whatever went wrong before
        outputs = model.predict(prepared, verbose=0)
        probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True) if logits else outputs
        if probabilities.max() < 0.9:
            break
        last.set_weights([weight / 2 for weight in last.get_weights()])
    model.save(str(folder / f"{name}.h5"), include_optimizer=optimizer)
    np.savez_compressed(folder / f"{name}.npz", pictures=pictures, probabilities=probabilities)
    print(
        name,
        probabilities.argmax(axis=1),
        probabilities.max().round(2),
        (folder / f"{name}.h5").stat().st_size,
    )


def main() -> None:
    """Makes the whole backbones named after the folder, or the small fixtures."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:]:
        mode = BACKBONES[name][1]
        for head in HEADS:
            for form in ("nested", "flat"):
                save(seed_model(whole_backbone(name), head, form), folder, f"{name}_{head}_{form}", mode)
                keras.backend.clear_session()
    if sys.argv[2:]:
        return
    for name, backbone, head, form in (
        ("emo_classificator_best_201219121553_resnet50_e10_aug0_acc34", "resnet50", "flatten", "nested"),
        ("emo_classificator_best_210105121553_resnet50_e20_aug1_acc44", "resnet50", "conv5", "nested"),
        ("emo_classificator_best_201222121553_vgg16_e10_aug0_acc14", "vgg16", "flatten", "flat"),
        ("emo_classificator_best_201230121553_xception_e20_aug1_acc34", "xception", "dense", "flat"),
        ("emo_classificator_best_201228121553_xception_e17_aug1_acc26", "xception", "two_dense", "called"),
    ):
        model = seed_model(small_backbone(backbone, 12), head, form, units=8)
        save(model, folder, name, BACKBONES[backbone][1], optimizer=True)
    save(grey_model(), folder, "keras2_grey", "tf")
    save(logits_model(), folder, "keras2_logits", "none")
    model = seed_model(small_backbone("vgg16", 12), "dense", "nested", units=8)
    model.save_weights(str(folder / "keras2_weights_only.h5"))


if __name__ == "__main__":
    main()
