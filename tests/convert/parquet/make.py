"""Write the files beside this one, with the installed version of `datasets`.

    python -m tests.convert.parquet.make

They are committed as versions 2.14.7 (pyarrow 15.0.2) and 5.2.0 (pyarrow 26.0.1) write them. NumPy
and pyarrow are all that is needed besides, so that old versions can be installed.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.png_images import png, random_samples

HERE = Path(__file__).parent
SPLITS = {"train": 2, "validation": 1, "test": 1}  # with numbers of shards
CLASSES = ("ant", "bee")


def list_images() -> Iterator[tuple[str, str, bytes]]:
    """Give split, path and content of the files of a tree."""
    for number, split in enumerate(SPLITS):
        for label, name in enumerate(CLASSES):
            for image in range(3):
                content = png(random_samples(2, 8, 3, 2, 100 * number + 10 * label + image))
                yield split, f"{name}/n0000000{label}_{image}.png", content


def write_hub(root: Path) -> None:
    """Write a tree, ``img`` without paths in another column, as a hub's repository."""
    import datasets
    from datasets.table import embed_table_storage

    datasets.disable_progress_bar()
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        for split, path, content in list_images():
            (tree / split / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / split / path).write_bytes(content)
        loaded = datasets.load_dataset("imagefolder", data_dir=str(tree), cache_dir=folder)
        (root / "data").mkdir(parents=True)
        for split, count in SPLITS.items():
            # As push_to_hub does it, but in an order that is not the tree's.
            rows = loaded[split].select([5, 0, 3, 1, 4, 2])
            rows = rows.with_format("arrow").map(embed_table_storage, batched=True)
            for number in range(count):
                shard = rows.with_format(None).shard(count, number, contiguous=True)
                shard.to_parquet(root / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet")
        names = datasets.ClassLabel(names=list(CLASSES))
        features = datasets.Features({"img": datasets.Image(), "fine_label": names})
        images = [content for split, _, content in list_images() if split == "test"]
        columns = {
            "img": [{"bytes": content, "path": None} for content in images],
            "fine_label": [1, 0, 1, 0, 1, 0],
        }
        (root / "numbered").mkdir()
        numbered = datasets.Dataset.from_dict(columns, features=features)
        numbered.to_parquet(root / "numbered" / "test-00000-of-00001.parquet")


if __name__ == "__main__":
    import datasets

    write_hub(HERE / datasets.__version__)
