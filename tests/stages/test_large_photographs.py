"""Memory of the stages that compute whole photographs: one of 4000x3000 pixels, as phones take it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.forks import NETWORKS

from deeplab.model import build_deeplab, describe_deeplab
from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import new_shard
from getam.datasets.voc import VOC_CLASSES
from getam.networks.checkpoints import save_model
from getam.networks.end_to_end import EndToEndNetwork, describe_end_to_end
from getam.settings.completion import LABEL_METHODS
from getam.settings.config import Config
from getam.system.files import read_array, write_array
from getam.system.image_files import read_labels, write_gray

HEIGHT, WIDTH = 3000, 4000
GIGABYTES = 2.0

PROGRAM = """
import sys
from importlib import import_module
from getam.cli import command
package, *words = sys.argv[1:]
code = command(package, import_module(package + ".cli").STAGES, words)
# Not getrusage: its peak counts what the parent had when it started this process.
print(code, int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 2**20)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """index.csv of one large photograph of three classes, raw maps of it, and small networks of VOC's classes."""
    folder = tmp_path_factory.mktemp("large")
    blocks = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    Image.fromarray(blocks).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / "large.jpg")
    row = IndexRow("large", "val", folder / "large.jpg", None, HEIGHT, WIDTH, VOC_CLASSES[:3])
    write_index(folder / "index.csv", Index((row,), VOC_CLASSES))
    with new_shard(folder / "maps", ids=["large"], suffix=".npy", classes=VOC_CLASSES, settings=None) as shard:
        shard.submit("large", write_array, np.random.default_rng(0).random((3, 24, 32), np.float32))
    # As refine_maps enlarges them, of 1024 pixels; in steps, to be made in no time.
    with new_shard(folder / "wide", ids=["large"], suffix=".npy", classes=VOC_CLASSES, settings=None) as shard:
        coarse = np.random.default_rng(0).random((3, 15, 20)).astype(np.float16)
        shard.submit("large", write_array, coarse.repeat(200, axis=1).repeat(200, axis=2))
    write_gray(folder / "saliency" / "large.png", np.uint8(255) * (np.indices((HEIGHT, WIDTH)).sum(0) % 999 < 500))
    network = EndToEndNetwork(config.end_to_end, num_classes=len(VOC_CLASSES))
    save_model(folder / "end_to_end", network, describe_end_to_end(config.end_to_end, VOC_CLASSES))
    segmenter = build_deeplab(config.deeplab, num_classes=1 + len(VOC_CLASSES))
    save_model(folder / "deeplab", segmenter, describe_deeplab(config.deeplab, VOC_CLASSES, learned_from="I"))
    return folder


def gigabytes(data: Path, package: str, *words: str) -> float:
    """The largest resident memory of a stage, which has to end well."""
    result = NETWORKS.run(PROGRAM, package, *words, "--index", str(data / "index.csv"), "--device", "cpu")
    assert result.stdout, result.stderr
    code, used = result.stdout.split()[-2:]
    assert code == "0", result.stderr
    print(f"{words[0]}: {float(used):.2f} GB")
    return float(used)


def test_refine_maps(data: Path) -> None:
    words = ["refine-maps", "--maps", str(data / "maps"), "--out", str(data / "refined")]
    assert gigabytes(data, "getam", *words) < GIGABYTES
    assert read_array(data / "refined" / "large.npy").shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("method", LABEL_METHODS)
def test_complete_labels(data: Path, method: str) -> None:
    out = data / f"labels_{method}"
    words = ["--maps", str(data / "wide"), "--saliency", str(data / "saliency"), "--out", str(out), "--method", method]
    assert gigabytes(data, "getam", "complete-labels", *words) < GIGABYTES
    labels = read_labels(out / "large.png")
    assert labels.shape == (HEIGHT, WIDTH)
    assert {1, 2, 3} & {*np.unique(labels).tolist()}


@pytest.mark.parametrize(
    ("package", "stage", "model", "crf"),
    [
        ("deeplab", "predict-deeplab", "deeplab", 0),
        ("deeplab", "predict-deeplab", "deeplab", 1),
        ("getam", "predict-end-to-end", "end_to_end", 0),
    ],
)
def test_predictions(data: Path, package: str, stage: str, model: str, crf: int) -> None:
    out = data / f"{stage}_{crf}"
    words = ["--model", str(data / model), "--split", "val", "--out", str(out), "--crf.iterations", str(crf)]
    assert gigabytes(data, package, stage, *words) < GIGABYTES
    assert read_labels(out / "large.png").shape == (HEIGHT, WIDTH)
