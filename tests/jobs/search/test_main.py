import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import DataError, SpecError
from cluster.storage import Storage
from jobs.error_record import ErrorRecord
from jobs.search.__main__ import main, parsed, plan
from jobs.search.device import shipped
from jobs.search.trial import LayoutTrial
from jobs.spec import load_ring
from tests.jobs.search.test_layouts import SPECS

SMALL = ["train.batch_size=16", "workload.num_layers=2", "layout.replicate=1"]


def planned(tmp_path: Path, devices: str, *overrides: str) -> str:
    spec = load_ring(SPECS / "language.yaml", [f"storage={tmp_path}", *SMALL, *overrides])
    return plan(spec, Storage(spec.storage), devices, 3)


def test_a_plan_needs_neither_data_nor_devices(tmp_path: Path) -> None:
    lines = planned(tmp_path, "4xH100").splitlines()
    assert lines[0].startswith("layout ")
    assert any(line.startswith("the fastest: layout.") for line in lines)
    assert lines[-1].startswith("node 0: ")
    assert "so far on H100: nothing measured yet" in lines


def test_a_plan_says_how_good_forecasts_of_this_device_were(tmp_path: Path) -> None:
    measured = LayoutTrial({}, 100, 1.0, (1.5,), (90,), rates=shipped()["L4"].rates_key)
    ErrorRecord(Storage(str(tmp_path)), "language/abc", shipped()["L4"]).note([measured])
    said = "so far on L4: 1 layout of 1 search, measured to foreseen: memory -10% (worst -10%), time x1.50"
    assert said in planned(tmp_path, "2xL4")


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["plan", str(SPECS / "language.yaml"), f"storage={tmp_path}", *SMALL, "--devices", "2xL4", "--top", "2"]
    assert main(given) == 0
    assert "layouts fit" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["8", "8xx", "xH100", "0xH100", "-1xH100"])
def test_devices_are_a_number_and_a_name(given: str, tmp_path: Path) -> None:
    if given == "8xx":
        assert parsed(given) == (8, "x")
        return
    with pytest.raises(SpecError, match=f"--devices {given} is not of the form NUMBERxNAME; give for example 8xH100"):
        parsed(given)


def test_at_least_one_layout_is_shown(tmp_path: Path) -> None:
    given = ["plan", str(SPECS / "language.yaml"), f"storage={tmp_path}", "--devices", "2xL4", "--top", "0"]
    with pytest.raises(SpecError, match="--top 0: at least one layout is shown"):
        main(given)


def test_a_device_that_the_table_lacks_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no device 'H10' is known\. Did you mean 'H100'\?.*tune\.device_table=FILE"):
        planned(tmp_path, "8xH10")


def test_a_model_that_no_layout_holds_is_refused_with_the_smallest_need(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no layout of 1xL4 holds this model and batch; takes .* GiB a device"):
        planned(
            tmp_path, "1xL4", "workload.hidden_dim=8192", "workload.feed_forward_dim=32768", "workload.num_layers=8"
        )


def test_a_model_of_fitted_features_has_to_be_prepared(tmp_path: Path) -> None:
    spec = load_ring(SPECS / "recommender.yaml", [f"storage={tmp_path}"])
    with pytest.raises(DataError, match=r"run first: python -m jobs\.prepare SPEC"):
        plan(spec, Storage(spec.storage), "2xL4", 3)


def test_seventy_billion_weights_are_planned_in_little_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak is its own."""
    sizes = {"hidden_dim": 8192, "num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "feed_forward_dim": 28672}
    sizes |= {"vocabulary_size": 128256, "context_length": 8192}
    given = [f"workload.{key}={size}" for key, size in sizes.items()]
    code = (
        "import resource, sys; from jobs.search.__main__ import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    rest = [f"storage={tmp_path}", "layout.precision=bf16", "layout.replicate=1", "train.batch_size=64"]
    asked = ["plan", str(SPECS / "language.yaml"), *rest, *given, "--devices", "64xH100", "--top", "1"]
    made = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, check=True)
    *shown, peak_kib = made.stdout.splitlines()
    assert "layouts fit" in "\n".join(shown)
    assert int(peak_kib) < 2 * 2**20
