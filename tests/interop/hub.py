"""huggingface_hub and `glue` share a cache: each reads what the other fetched.

    python3 tests/interop/hub.py --glue target/release/glue --endpoint URL --model ORG/NAME

needs huggingface_hub and a hub at URL: `cargo run -p glue-tests --bin stand-in-hub -- ROOT` prints one's address.
"""

import argparse
import filecmp
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def run(arguments, **environment):
    done = subprocess.run(arguments, env={**os.environ, **environment}, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{arguments}: {done.stderr or done.stdout}")
    return done.stdout


PATTERNS = ["*.safetensors", "*.json", "*.md"]
FETCH = "import sys, huggingface_hub as hub; print(hub.snapshot_download(sys.argv[1], allow_patterns=sys.argv[2:]))"


def same(left, right):
    names = sorted(str(path.relative_to(left)) for path in Path(left).rglob("*") if path.is_file())
    others = sorted(str(path.relative_to(right)) for path in Path(right).rglob("*") if path.is_file())
    assert names and set(others) == set(names), (names, others)
    for name in names:
        assert filecmp.cmp(Path(left, name), Path(right, name), shallow=False), name
    return len(names)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glue", required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    try:
        import huggingface_hub
    except ImportError:
        print("skipped: huggingface_hub is not installed")
        return
    with tempfile.TemporaryDirectory() as directory:
        common = {"HF_ENDPOINT": args.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": directory}
        ours, theirs = f"{directory}/ours", f"{directory}/theirs"
        fetched = json.loads(run([args.glue, "fetch", args.model, "--json", "--quiet"], HF_HUB_CACHE=ours, **common))
        by_python = run([sys.executable, "-c", FETCH, args.model, *PATTERNS], HF_HUB_CACHE=theirs, **common).strip()
        snapshot = fetched["repositories"][0]["directory"]
        files = same(snapshot, by_python)
        assert Path(snapshot).name == Path(by_python).name, "not the same commit"
        # Each without a connection, from the other's cache.
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": directory, "HF_ENDPOINT": "http://127.0.0.1:9"}
        found = run([sys.executable, "-c", FETCH, args.model, *PATTERNS], HF_HUB_CACHE=ours, **offline).strip()
        assert os.path.samefile(found, snapshot), (found, snapshot)
        run([args.glue, "inspect", args.model, "--quiet"], HF_HUB_CACHE=theirs, **offline)
        again = json.loads(run([args.glue, "fetch", args.model, "--json", "--quiet"], HF_HUB_CACHE=theirs, **common))
        assert again["repositories"][0]["bytes_downloaded"] == 0, again
        # And Python adds nothing to what is complete.
        before = sorted(os.listdir(Path(snapshot).parents[1] / "blobs"))
        run([sys.executable, "-c", FETCH, args.model, *PATTERNS], HF_HUB_CACHE=ours, **common)
        assert sorted(os.listdir(Path(snapshot).parents[1] / "blobs")) == before
    print(f"huggingface_hub {huggingface_hub.__version__}: {files} files of {args.model}, both ways")


if __name__ == "__main__":
    main()
