"""No command reports to anybody: a fresh home stays empty, and no name is looked up and no connection made."""

from __future__ import annotations

import ast
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
RECORDING = ROOT / "tests" / "data" / "recordings" / "cow.ogg"

# Preloaded, it writes down every name that is looked up and every address that is connected to, by C code too.
WATCH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <arpa/inet.h>
#include <sys/socket.h>

static void note(const char *what, const char *who) {
    FILE *log = fopen(getenv("WATCH_LOG"), "a");
    if (log) { fprintf(log, "%s %s\n", what, who ? who : "(nobody)"); fclose(log); }
}
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    real = dlsym(RTLD_NEXT, "getaddrinfo");
    note("getaddrinfo", name);
    return real(name, service, hints, found);
}
struct hostent *gethostbyname(const char *name) {
    struct hostent *(*real)(const char *) = dlsym(RTLD_NEXT, "gethostbyname");
    note("gethostbyname", name);
    return real(name);
}
static void note_address(const char *what, const struct sockaddr *address) {
    char text[INET6_ADDRSTRLEN] = "";
    if (!address) return;
    if (address->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *) address)->sin_addr, text, sizeof text);
    else if (address->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *) address)->sin6_addr, text, sizeof text);
    else
        return;
    note(what, text);
}
int connect(int socket, const struct sockaddr *address, socklen_t length) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    note_address("connect", address);
    return real(socket, address, length);
}
ssize_t sendto(int socket, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");
    note_address("sendto", to);
    return real(socket, data, size, flags, to, length);
}
"""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The shared object made of WATCH; None on a machine without a C compiler, which sees the files alone."""
    if sys.platform != "linux" or (compiler := shutil.which("cc")) is None:
        return None
    folder = tmp_path_factory.mktemp("watch")
    (folder / "watch.c").write_text(WATCH)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "watch.so", folder / "watch.c", "-ldl"], check=True)
    return folder / "watch.so"


class Home:
    """Runs commands in a fresh home, without any variable of this process: CI among them, which silences reports."""

    def __init__(self, folder: Path, watch: Path | None) -> None:
        self.folder, self.watch = folder, watch
        self.log = folder.with_name("log")
        folder.mkdir()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        if self.watch is not None:
            environment |= {"LD_PRELOAD": str(self.watch), "WATCH_LOG": str(self.log)}
        return subprocess.run(
            [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
        )

    def files(self) -> list[str]:
        return [str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()]

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def home(tmp_path: Path, watch: Path | None) -> Home:
    return Home(tmp_path / "home", watch)


def test_the_watch_sees_names_and_connections(home: Home) -> None:
    if home.watch is None:
        pytest.skip("no C compiler")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('localhost', {server.getsockname()[1]})).close()"
        assert home.run("-c", code).returncode == 0
    assert home.calls()[0] == "getaddrinfo localhost"
    assert home.calls()[-1] == "connect 127.0.0.1"


def test_dcls_tag_reports_to_nobody(home: Home) -> None:
    done = home.run("-c", "from audioset_dcls.commands.tag import main; main()", str(RECORDING))
    assert done.returncode == 0, done.stderr
    assert "Moo" in done.stdout
    assert done.stderr == ""
    assert home.files() == []
    assert home.calls() == []


def test_a_home_that_cannot_be_written_is_no_matter(home: Home, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home.folder = tmp_path / "file" / "home"  # not even root can make this folder
    done = home.run("-c", "from audioset_dcls.commands.tag import main; main()", str(RECORDING))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_training_and_evaluating_report_to_nobody(home: Home, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips.h5")
    settings = [
        *(f"hydra.run.dir={tmp_path}/run", "experiment=quick", "epochs=1", "batch_size=4"),
        *("warmup_epochs=0", "trainer.check_val_every_n_epoch=1", "data.clip_seconds=1.0"),
        *("+model.depths=[1,1,1,1]", "+model.dims=[8,8,8,8]"),
        *(
            "data.batch_size=4",
            "data.num_workers=0",
            f"data.train=[{tmp_path}/clips.h5]",
            f"data.val={tmp_path}/clips.h5",
        ),
    ]
    done = home.run("-c", "from audioset_dcls.commands.train import main; main()", *settings)
    assert done.returncode == 0, done.stderr
    checkpoint = str(tmp_path / "run" / "best.ckpt")
    for command in ("tag", "evaluate", "export"):
        arguments = {
            "tag": ["--model", checkpoint, str(RECORDING)],
            "evaluate": [checkpoint, "--data", f"{tmp_path}/clips.h5", "-o", f"{tmp_path}/report", "--workers", "0"],
            "export": [checkpoint, f"{tmp_path}/tagger.onnx"],
        }[command]
        done = home.run("-c", f"from audioset_dcls.commands.{command} import main; main()", *arguments)
        assert done.returncode == 0, done.stderr
    own = [".cache/audioset_dcls/", ".cache/matplotlib/", ".config/matplotlib/"]  # exported taggers, the list of fonts
    assert [file for file in home.files() if not file.startswith(tuple(own))] == []
    assert [call for call in home.calls() if not call.endswith((" 127.0.0.1", " localhost", " ::1"))] == []


def write_clips(path: Path) -> None:
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["audio_name"] = np.array([f"{i}.wav".encode() for i in range(8)])
        file["waveform"] = generator.integers(-3000, 3000, (8, 32_000)).astype(np.int16)
        file["target"] = np.arange(8)[:, None] % 2 == np.arange(2)
        file.attrs["labels"] = '["even", "odd"]'


def test_one_module_imports_onnx_runtime() -> None:
    importers = set()
    for path in [ROOT / "cli.py", *(ROOT / "audioset_dcls").rglob("*.py"), *(ROOT / "preprocessing").rglob("*.py")]:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        if any(name.split(".")[0] == "onnxruntime" for name in names):
            importers.add(path.relative_to(ROOT).as_posix())
    assert importers == {"audioset_dcls/tagging/session.py"}
