import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.neighbors import NearestCentroid

from jobs.examples import digits
from jobs.features.columns import check_rows
from jobs.workloads import vision
from jobs.workloads.vision import Block, VisionSpec
from tests.jobs.workloads.example import Prepared
from tests.jobs.workloads.prepared import prepare, trained

SPEC = VisionSpec(height=8, width=8)
COLOURED = VisionSpec(height=4, width=6, channels=3, block_channels=(4, 8))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(pq.read_table(io.BytesIO(digits().content)), SPEC)


def coloured(num_rows: int = 60) -> pa.Table:
    """Each channel has a mean and a spread of its own."""
    draw = np.random.default_rng(0)
    images = draw.normal([[0], [50], [-7]], [[1], [20], [0.1]], (num_rows, 3, 24)).reshape(num_rows, 72)
    return pa.table({"id": [*map(str, range(num_rows))], "image": images.tolist(), "label": ["x", "y", "z"] * 20})


def batch_of(prepared: Prepared, num_rows: int = 16) -> dict[str, torch.Tensor]:
    return {**vision.tensors(prepared.train.table.slice(0, num_rows)), "key": torch.arange(num_rows)}


def test_every_channel_of_the_training_images_has_mean_0_and_variance_1() -> None:
    prepared = prepare(coloured(), COLOURED)
    pixels = vision.tensors(prepared.train.table)["pixels"].unflatten(1, (3, 24))
    torch.testing.assert_close(pixels.mean((0, 2)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels.var((0, 2), correction=0), torch.ones(3), atol=1e-3, rtol=0)
    raw = torch.tensor(prepared.train.table.column("image").to_pylist()).unflatten(1, (3, 24))
    torch.testing.assert_close(pixels[:, 1].argsort(1), raw[:, 1].argsort(1))


def test_a_crop_that_could_leave_nothing_of_an_image_is_refused() -> None:
    message = "augment.crop_pixels=6 could move all of an image of 6 x 9 pixels out of sight; give at most 5"
    with pytest.raises(ValidationError, match=message):
        VisionSpec.model_validate({"height": 6, "width": 9, "augment": {"crop_pixels": 6}})
    assert VisionSpec.model_validate({"height": 6, "width": 9, "augment": {"crop_pixels": 5}}).augment.moves


def test_an_image_of_another_size_goes_to_quarantine_with_both_sizes() -> None:
    raw = pa.table({"id": ["1", "2"], "image": ["|".join(["0"] * 72), "|".join(["0"] * 64)], "label": ["x", "y"]})
    good, bad = check_rows(raw, vision.event_columns(COLOURED)).column("reason").to_pylist()
    assert good is None
    assert bad.endswith("has 64 entries, not 72")


def test_the_stem_sees_channels_and_rows_of_pixels_as_they_are_written() -> None:
    prepared = prepare(coloured(), COLOURED)
    stem, seen = vision.build(COLOURED, prepared.transform)["stem"], []
    stem.convolution.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = batch_of(prepared)
    stem(None, batch)
    for channel, row, column in ((0, 0, 0), (1, 2, 5), (2, 3, 1)):
        torch.testing.assert_close(
            seen[0][:, channel, row, column], batch["pixels"][:, channel * 24 + row * 6 + column]
        )


def test_a_block_with_more_channels_halves_the_image_rounding_up() -> None:
    batch: dict[str, torch.Tensor] = {}
    assert Block(4, 4, "relu")(torch.randn(2, 4, 7, 5), batch).shape == (2, 4, 7, 5)
    assert Block(4, 8, "relu")(torch.randn(2, 4, 7, 5), batch).shape == (2, 8, 4, 3)
    assert Block(8, 4, "relu")(torch.randn(2, 8, 7, 5), batch).shape == (2, 4, 7, 5)


def test_a_block_whose_convolutions_are_0_passes_its_input_on() -> None:
    block = Block(4, 4, "relu")
    torch.nn.init.zeros_(block.norm2.weight)
    hidden = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(hidden, {}), hidden.relu())


def test_convolutions_begin_with_the_spread_of_he_et_al() -> None:
    torch.manual_seed(0)
    for num_inputs, num_outputs in ((64, 64), (64, 128)):
        block = Block(num_inputs, num_outputs, "relu")
        for convolution in (block.convolution1, block.convolution2):
            expected = (2 / (9 * num_outputs)) ** 0.5
            assert float(convolution.weight.std().detach()) == pytest.approx(expected, rel=0.02)
            assert convolution.bias is None


def test_a_rows_loss_does_not_depend_on_the_rows_beside_it(prepared: Prepared) -> None:
    """Batch normalisation would break this, and with it the same loss on every layout."""
    model, batch = vision.build(SPEC, prepared.transform).train(), batch_of(prepared)
    together = vision.loss(SPEC, model(batch), batch)
    rows = [{name: values[place : place + 1] for name, values in batch.items()} for place in range(16)]
    torch.testing.assert_close(together, torch.cat([vision.loss(SPEC, model(row), row) for row in rows]))


def test_baselines_equal_those_of_scikit_learn(prepared: Prepared) -> None:
    found = vision.baselines(SPEC, prepared.transform, prepared.train, prepared.test)
    train, test = map(vision.tensors, (prepared.train.table, prepared.test))
    nearest = NearestCentroid().fit(train["pixels"].numpy(), train["class"].numpy())
    assert found["nearest_mean"] == {
        "accuracy": pytest.approx(nearest.score(test["pixels"].numpy(), test["class"].numpy()))
    }
    most = int(torch.bincount(train["class"]).argmax())
    assert found["class_shares"]["accuracy"] == pytest.approx(float((test["class"] == most).double().mean()))


def test_a_short_training_beats_the_baselines_and_logistic_regression(prepared: Prepared) -> None:
    model = trained(prepared, SPEC, num_epochs=12, batch_size=64, lr=3e-3)
    found = vision.evaluate(SPEC, model, prepared.transform, prepared.test)
    train, test = map(vision.tensors, (prepared.train.table, prepared.test))
    line = LogisticRegression(max_iter=1000).fit(train["pixels"].numpy(), train["class"].numpy())
    given = line.predict_proba(test["pixels"].numpy())
    straight = accuracy_score(test["class"], given.argmax(1)), log_loss(test["class"], given)
    nearest = vision.baselines(SPEC, prepared.transform, prepared.train, prepared.test)["nearest_mean"]["accuracy"]
    print(f"accuracy {found['accuracy']:.4f}, logistic regression {straight[0]:.4f}, nearest mean {nearest:.4f}")
    assert found["accuracy"] > max(straight[0], nearest)
    assert found["log_loss"] < straight[1]


def test_golden_rows_replayed_from_what_was_read_are_equal(prepared: Prepared) -> None:
    torch.manual_seed(0)
    model = vision.build(SPEC, prepared.transform).eval()
    golden = vision.golden(SPEC, model, prepared.transform, prepared.test)
    assert golden.num_rows == 16
    again = prepared.transform.apply(golden.append_column("label", pa.array(["0"] * golden.num_rows)))
    assert vision.golden(SPEC, model, prepared.transform, again) == golden
    one = prepared.transform.step("pixels").apply_row(golden.slice(0, 1).to_pylist()[0])["pixels"]
    assert one == again.column("pixels")[0].as_py()


@pytest.mark.parametrize("wrong", [{"block_channels": ()}, {"block_channels": (4, 0)}, {"channels": 0}, {"height": 0}])
def test_sizes_that_make_no_image_or_model_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VisionSpec(**{"height": 8, "width": 8, **wrong})
