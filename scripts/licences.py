"""Prints the licences of everything that a release of answerd holds: crates, browser packages, models.

`licences.py [--features F]`: a list, and after it each text of a licence once, with those whom it is of. What it prints depends
on Cargo.lock and on src/web/ui/node_modules, which `ui.sh` fills.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys

LICENCE = re.compile(r"(licen[cs]e|copying|notice|unlicense)", re.IGNORECASE)
MODELS = [
    ("SmolLM2-135M-Instruct", "Apache-2.0", "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"),
    ("all-MiniLM-L6-v2", "Apache-2.0", "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2"),
]


def crates(arguments: list[str]):
    """Every crate that is linked into the program: not what only tests or builds need."""
    host = subprocess.check_output(["rustc", "-vV"], text=True).split("host: ")[1].split()[0]
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", host, *arguments]
    metadata = json.loads(subprocess.check_output(command))
    packages = {package["id"]: package for package in metadata["packages"]}
    needs = {
        node["id"]: [need["pkg"] for need in node["deps"] if any(kind["kind"] is None for kind in need["dep_kinds"])]
        for node in metadata["resolve"]["nodes"]
    }
    root = metadata["resolve"]["root"]
    seen, waiting = {root}, [root]
    while waiting:
        for need in needs[waiting.pop()]:
            if need not in seen:
                seen.add(need)
                waiting.append(need)
    for package in sorted((packages[one] for one in seen if one != root), key=lambda one: (one["name"], one["version"])):
        folder = pathlib.Path(package["manifest_path"]).parent
        # llama.cpp stands in the folder of its bindings.
        folders = [folder, *(inner for inner in [folder / "llama.cpp", folder / "sqlite3"] if inner.is_dir())]
        yield f"{package['name']} {package['version']}", package["license"] or "see its text", package["repository"] or "", folders


def browser_packages(ui: pathlib.Path):
    lock = json.loads((ui / "package-lock.json").read_text())
    for path, package in sorted(lock["packages"].items()):
        if path and not package.get("dev"):
            name = path.removeprefix("node_modules/")
            yield f"{name} {package['version']} (browser)", package.get("license", "see its text"), f"https://www.npmjs.com/package/{name}", [ui / path]


def texts(folders: list[pathlib.Path]):
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            if file.is_file() and LICENCE.search(file.name) and file.stat().st_size < 200_000 and file.suffix not in {".rs", ".js"}:
                yield file.read_text(errors="replace").strip()


def main() -> None:
    everything = [*crates(sys.argv[1:]), *browser_packages(pathlib.Path("src/web/ui")), *((*model, []) for model in MODELS)]
    print(f"answerd holds what {len(everything)} others made, under these licences:\n")
    owners: dict[str, list[str]] = collections.defaultdict(list)
    for name, licence, address, folders in everything:
        print(f"{name}  {licence}  {address}".rstrip())
        for text in texts(folders):
            owners[text].append(name)
    for text, names in owners.items():
        print(f"\n{'=' * 100}\n{', '.join(dict.fromkeys(names))}\n{'-' * 100}\n{text}")


if __name__ == "__main__":
    main()
