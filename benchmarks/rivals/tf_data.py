# /// script
# dependencies = ["tensorflow-cpu==2.21.0"]
#
# [[tool.benchmark.rows]]
# name = "tf.data, packed array"
# batch_size = 512
# differs = "NHWC"
# ///
"""tf.data: a packed array, shuffled and mapped image by image in TensorFlow's own threads."""

# mypy: disable-error-code="import-not-found,import-untyped,no-any-return"

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.rivals.protocol import Batches, Data, serve

PADDING = 4


def open_loader(data: Data, batch_size: int) -> Batches:
    images = np.ascontiguousarray(np.load(data.images).transpose(0, 2, 3, 1))
    labels = np.load(data.labels).astype(np.int64)
    size = images.shape[1]
    mean, std = tf.constant(data.mean), tf.constant(data.std)

    def augment(image: Any, label: Any) -> tuple[Any, Any]:
        image = tf.image.resize_with_crop_or_pad(image, size + 2 * PADDING, size + 2 * PADDING)
        image = tf.image.random_crop(image, (size, size, 3))
        image = tf.image.random_flip_left_right(image)
        return (tf.image.convert_image_dtype(image, tf.float32) - mean) / std, label

    return (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(len(images))
        .map(augment, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


if __name__ == "__main__":
    serve(open_loader)
