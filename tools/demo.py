"""`make demo`: from training to timed, integer-exact execution of the digits network, in one sitting.

Trains a small CNN on scikit-learn's digits, exports it to ONNX, calibrates on training images, compiles
it for `isaac`, and sends the 360 test images through the instruction stream. Exits 1 if one output
integer of the stream differs from the int8 reference.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import cimc
from cimc.models.digits import Digits, digits_data, train
from cimc.models.export import export_module

OUT = Path("out")
ARCH = "isaac"
CALIBRATION_IMAGES = 256


def main() -> int:
    """Run the demo in ``out/``; return the exit code."""
    OUT.mkdir(exist_ok=True)
    data = digits_data()
    print(f"training on {len(data.train_labels)} digits")
    model = export_module(train(), (1, 8, 8), OUT / "digits.onnx")
    calibration = OUT / "digits-calibration.npz"
    np.savez(calibration, x=data.train_images[:CALIBRATION_IMAGES])

    artifact_folder, dumps = OUT / "digits", OUT / "digits-ir"
    for stale in (artifact_folder, dumps):
        shutil.rmtree(stale, ignore_errors=True)
    print(f"compiling {model} for {ARCH}")
    artifact = cimc.compile(model, ARCH, calibration=calibration, output=artifact_folder, dump_ir=dumps)
    return report(artifact, model, data, dumps)


def report(artifact: cimc.Artifact, model: Path, data: Digits, dumps: Path) -> int:
    """Run the test images on three engines, print what came out, and compare the integers."""
    inputs = {"x": data.test_images}
    stream = artifact.run(inputs, engine="program")
    reference = artifact.run(inputs, engine="quantised")
    timing = artifact.simulate(images=8)

    labels = data.test_labels
    print(f"accuracy on {len(labels)} test images")
    print(f"  float (onnxruntime)  {accuracy(float_outputs(model, data.test_images), labels):8.2%}")
    print(f"  int8 reference       {accuracy(reference.outputs['logits'], labels):8.2%}")
    print(f"  instruction stream   {accuracy(stream.outputs['logits'], labels):8.2%}")
    print(f"multiply-accumulates on the arrays: {stream.array_macs} of {stream.total_macs}")
    print(f"time: {timing.cycles} cycles for 8 images, latency {timing.latency_ns:.0f} ns an image, then")
    print(f"  one every {timing.interval_cycles} cycles; peak power {timing.peak_power_mw:.1f} mW")
    print(f"energy of 8 images: {sum(timing.energy_pj.values()) / 1e6:.3f} uJ")
    for component, energy in sorted(timing.energy_pj.items(), key=lambda item: -item[1]):
        print(f"  {component:20} {energy / 1e6:10.4f} uJ")
    print(f"IR after each pass: {dumps}/ ({len(list(dumps.iterdir()))} files); artifact: {OUT / 'digits'}/")

    differing, total = differences(stream.integer_outputs, reference.integer_outputs)
    print(f"stream against int8 reference: {differing} of {total} output integers differ")
    return 1 if differing or not total else 0


def float_outputs(model: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits [n, 10] of the float model, one image at a time as it was exported."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return np.concatenate([np.asarray(session.run(["logits"], {"x": image[None]})[0]) for image in images])


def accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share of images whose largest logit is the label's."""
    return float((logits.argmax(axis=1) == labels).mean())


def differences(
    stream: Mapping[str, npt.NDArray[Any]], reference: Mapping[str, npt.NDArray[Any]]
) -> tuple[int, int]:
    """Count differing and all integers; a missing output or another shape counts as all of it differing."""
    differing = total = 0
    for name, expected in reference.items():
        total += expected.size
        given = stream.get(name)
        same_shape = given is not None and given.shape == expected.shape
        differing += int(np.count_nonzero(given != expected)) if same_shape else expected.size
    return differing, total


if __name__ == "__main__":
    sys.exit(main())
