"""Models of the Hugging Face Hub, with a stand-in for the hub on this machine."""

import pytest

pytest.importorskip("huggingface_hub", reason="huggingface_hub is the extra `hub`")

import copy  # noqa: E402
import pickle  # noqa: E402
import re  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402

import huggingface_hub.constants  # noqa: E402
import huggingface_hub.file_download  # noqa: E402
import huggingface_hub.hf_api  # noqa: E402
import numpy as np  # noqa: E402

from maskrcnn_jax import presets  # noqa: E402
from maskrcnn_jax.cli.main import main  # noqa: E402
from maskrcnn_jax.config import Config  # noqa: E402
from maskrcnn_jax.data.categories import Categories  # noqa: E402
from maskrcnn_jax.runs import run_directory  # noqa: E402
from maskrcnn_jax.weights import files, hub, loading, model_metadata, reading, torchvision  # noqa: E402
from tests.weights import hub_stand_in  # noqa: E402
from tests.weights.states import small, state_of  # noqa: E402

# For uploads by plain HTTP, huggingface_hub calls its HTTP client in a way that this deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAMES = ("apple", "a *hazel* <nut>")


@pytest.fixture(scope="module")
def started():
    with hub_stand_in.serving() as server:
        yield server
    huggingface_hub.close_session()


@pytest.fixture
def server(started, tmp_path, monkeypatch):
    """A stand-in that huggingface_hub takes for the hub, with an empty cache and no token."""
    for kept in (started.files, started.private, started.gated, started.requests):
        kept.clear()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", started.address)
    template = f"{started.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", started.address)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return started


def small_config():
    return Config(model=small(presets.maskrcnn_resnet50_fpn(num_classes=3)))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A weight file of a small network with its categories."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    config = small_config()
    metadata = model_metadata.encode(config, Categories((1, 2), NAMES))
    files.write(path, state_of(config.model), metadata)
    return path


@pytest.fixture(scope="module")
def weights(path):
    return path.read_bytes()


@pytest.fixture(scope="module")
def variables(path):
    return loading.load(path).variables


def check_variables(loaded):
    """Fails unless a model has the arrays of `state_of`."""
    found = torchvision.to_state_dict(loaded.variables, small_config().model)
    expected = state_of(small_config().model)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], name)


@pytest.mark.parametrize(
    "name, place",
    [
        ("hf://me/nuts", ("me/nuts", None, None)),
        ("hf://me/nuts@v1.0", ("me/nuts", "v1.0", None)),
        ("hf://me/my.nuts-2/a/b.pth", ("me/my.nuts-2", None, "a/b.pth")),
        ("hf://me/nuts@main/b.npz", ("me/nuts", "main", "b.npz")),
    ],
)
def test_names(name, place):
    assert hub.parse(name) == place and reading.is_released(name)


@pytest.mark.parametrize("name", ["hf://nuts", "hf://", "hf://me/", "hf:///nuts", "hf://me/nuts@"])
def test_wrong_names(name):
    with pytest.raises(ValueError, match="hf://OWNER/NAME, got"):
        loading.load(name)


def test_a_model_is_downloaded_once_and_read_offline(server, weights, monkeypatch):
    server.files["me/nuts"] = {"model.safetensors": weights}
    loaded = loading.load("hf://me/nuts")
    assert loaded.categories.names == NAMES
    check_variables(loaded)
    count = sum(request.startswith("GET") for request in server.requests)
    assert count == 1
    hub.fetch("hf://me/nuts")
    assert sum(request.startswith("GET") for request in server.requests) == count
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()
    assert hub.fetch("hf://me/nuts").read_bytes() == weights and server.requests == []
    assert hub.fetch("hf://me/nuts@main").read_bytes() == weights
    with pytest.raises(OSError, match="cannot reach the hub, and the cache has no.* me/dates"):
        hub.fetch("hf://me/dates")


def test_the_cache_serves_when_the_hub_cannot_be_reached(server, weights, monkeypatch):
    server.files["me/nuts"] = {"model.npz": weights}
    hub.fetch("hf://me/nuts")
    # The package would try again for half a minute.
    monkeypatch.setattr(huggingface_hub.file_download, "_DEFAULT_RETRY_ON_EXCEPTIONS", ())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert hub.fetch("hf://me/nuts").read_bytes() == weights


def test_other_files_are_found_by_their_names(server, weights):
    server.files["me/nuts"] = {"model.npz": b"ours", "old/best.pth": b"theirs", "x.txt": b""}
    assert hub.fetch("hf://me/nuts").read_bytes() == b"ours"
    assert hub.fetch("hf://me/nuts/old/best.pth").read_bytes() == b"theirs"
    del server.files["me/nuts"]["model.npz"]
    with pytest.raises(FileNotFoundError, match="no model.safetensors nor model.npz: its weight "):
        hub.fetch("hf://me/nuts")
    with pytest.raises(FileNotFoundError, match="no b.pth: its.* are hf://me/nuts/old/best.pth$"):
        hub.fetch("hf://me/nuts/b.pth")


def test_what_may_not_be_read_is_one_message(server, weights, monkeypatch):
    server.files |= {name: {"model.safetensors": weights} for name in ("me/hidden", "me/gated")}
    server.private.add("me/hidden")
    server.gated.add("me/gated")
    for name, words in {
        "hf://me/absent": "no me/absent on the hub that you may read.*hf auth login",
        "hf://me/hidden": "no me/hidden on the hub that you may read",
        "hf://me/gated": "me/gated on the hub is gated",
        "hf://me/--x": "me/--x is no name of the hub",
    }.items():
        with pytest.raises((OSError, ValueError), match=words) as raised:
            hub.fetch(name)
        assert "\n" not in str(raised.value)
    server.files["me/nuts"] = {"model.safetensors": weights}
    with pytest.raises(FileNotFoundError, match="me/nuts on the hub has no revision v9"):
        hub.fetch("hf://me/nuts@v9")
    monkeypatch.setenv("HF_TOKEN", hub_stand_in.TOKEN)
    assert hub.fetch("hf://me/hidden").read_bytes() == weights


def test_files_of_the_hub_are_read_as_untrusted_ones(server, tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    server.files["me/evil"] = {
        "model.safetensors": pickle.dumps(Evil()),
        "a.pth": pickle.dumps(Evil()),
    }
    for name in ("hf://me/evil", "hf://me/evil/a.pth"):
        with pytest.raises(ValueError, match="cache"):
            loading.load(name)
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(hub, "MAX_BYTES", 10)
    with pytest.raises(OSError, match="which is no detector"):
        hub.fetch("hf://me/evil")


@pytest.fixture
def run(variables, tmp_path, monkeypatch):
    """A run directory whose variables are those of a small network."""
    directory, config = tmp_path / "run", small_config()
    config.num_steps, config.batch_size = 8, 2
    config.data.train_annotations = "/home/me/secret/nuts_train.json"
    config.data.train_images, config.data.val_images = "/home/me/secret/photos", "val"
    categories = Categories((1, 2), NAMES)
    run_directory.write_run(directory, config, categories)
    words = ["maskrcnn-jax", "train", "--config=configs/nuts.py", "--workdir=/home/me/secret/run"]
    run_directory.add_command(directory, words)
    numbers = {"AP": 0.25, "AP50": 0.5, "AP75": 0.125, "APs": -1.0, "APm": 0.2, "APl": 0.3}
    entries = [{"step": 4, "bbox": numbers | {"AP": 0.1}, "segm": numbers}, {"step": 6, "loss": 1}]
    entries += [
        {"step": 8, "bbox": numbers | {"AP": 0.75}, "segm": numbers},
        {"step": 9, "bbox": {}},
    ]
    (directory / "metrics.jsonl").write_text("".join(f"{x}\n".replace("'", '"') for x in entries))
    found = run_directory.Run(config, categories, copy.deepcopy(variables), 8)
    monkeypatch.setattr(run_directory, "load_run", lambda directory: found)
    return directory


def test_a_run_is_pushed_with_a_card_and_loaded_again(server, run, monkeypatch, capsys):
    monkeypatch.setattr(torchvision, "check_can_build", lambda config: None)  # Of full size.
    monkeypatch.setenv("HF_TOKEN", hub_stand_in.TOKEN)
    arguments = ["push", str(run), "me/nuts", "--license", "apache-2.0", "--private"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"uploaded to {server.address}/me/nuts; hf://me/nuts")
    assert server.files["me/nuts"].keys() == {"README.md", "model.safetensors"}
    assert server.private == {"me/nuts"}
    loaded = loading.load("hf://me/nuts")
    assert loaded.categories.names == NAMES
    check_variables(loaded)
    card = server.files["me/nuts"]["README.md"].decode()
    data = huggingface_hub.ModelCard(card).data
    assert data.license == "apache-2.0" and data.library_name == "maskrcnn-jax"
    results = {x.metric_type: x.metric_value for x in data.eval_results}
    assert results == {"bbox_ap": 0.75, "bbox_ap50": 0.5, "segm_ap": 0.25, "segm_ap50": 0.5}
    assert "| boxes | 0.750 | 0.500 | 0.125 | - | 0.200 | 0.300 |" in card
    assert "after step 8" in card and "8 of 8 steps, each of 2 images" in card
    assert 'Detector.from_weights("hf://me/nuts")' in card
    assert "images of `photos`, annotations of `nuts_train.json`" in card
    assert "maskrcnn-jax train --config=configs/nuts.py --workdir=run\n" in card
    assert "secret" not in card and "\\<nut\\>" in card


@pytest.mark.slow
def test_a_network_that_torchvision_lacks_is_pushed_with_our_names(server, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub_stand_in.TOKEN)
    run_directory.load_run(run).config.model.roi.aligned = True
    assert main(["push", str(run), "me/nuts"]) == 0
    assert server.files["me/nuts"].keys() == {"README.md", "model.npz"}
    loaded = loading.load("hf://me/nuts")
    assert loaded.config.model.roi.aligned
    check_variables(loaded)
    assert "The authors have named none." in server.files["me/nuts"]["README.md"].decode()


def test_the_card_alone(server, run, capsys):
    (run / "metrics.jsonl").unlink()
    (run / "commands.jsonl").unlink()
    assert main(["push", str(run), "me/nuts", "--dry-run"]) == 0
    card = capsys.readouterr().out
    assert "The run was not evaluated." in card and "did not record its command" in card
    assert server.requests == []


@pytest.mark.parametrize(
    "change, arguments, words",
    [
        ("", ["me/nuts"], "need a token of the hub: `hf auth login`"),
        ("wrong token", ["me/nuts"], "hub answered 401|may read"),
        ("token", ["nuts"], "hf://OWNER/NAME, got 'hf://nuts'"),
        ("token", ["me/nuts@v1"], "is OWNER/NAME, got 'me/nuts@v1'"),
        ("log", ["me/nuts"], "metrics.jsonl is no log of a run"),
        ("record", ["me/nuts"], "commands.jsonl is not valid JSON"),
        ("words", ["me/nuts"], "commands.jsonl must have a list of words"),
    ],
)
def test_mistakes_of_push_are_one_message(
    server, run, monkeypatch, capsys, change, arguments, words
):
    if "token" in change:
        token = "hf_wrong" if change == "wrong token" else hub_stand_in.TOKEN
        monkeypatch.setenv("HF_TOKEN", token)
    if change == "log":
        (run / "metrics.jsonl").write_text('{"bbox": 3}\n')
    if change in ("record", "words"):
        (run / "commands.jsonl").write_text("[" if change == "record" else "[3]\n")
    assert main(["push", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(words, error)
    assert server.files == {}


def test_without_the_package_one_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'maskrcnn-jax\[hub\]'"):
        hub.fetch("hf://me/nuts")
