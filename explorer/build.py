"""Builds the explorer: `python explorer/build.py FOLDER`.

What costs minutes is kept in the user's cache under a hash of all that decides it: models, data and
sources. Without npm, or where it cannot fetch the packages of `package-lock.json`, the page is
built without its live parts and says so.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ASSETS = ROOT / "daitir" / "models" / "assets"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "daitir"
DATA_SOURCES = (
    HERE / "precompute.py", ROOT / "daitir" / "scenes", ROOT / "daitir" / "analysis",
    ROOT / "daitir" / "fusion.py", ROOT / "daitir" / "retrieval.py",
)  # fmt: skip
ENGINE_MODULES = ("engine", "clean", "noise", "packs", "rank")
ENGINE_SOURCES = [
    *(HERE / name for name in ("package.json", "package-lock.json", ".npmrc")),
    *(HERE / "src" / f"{name}.js" for name in ENGINE_MODULES),
]
PAGE_MODULES = ("strings", "scenes", "curve", "parts", "talk", "past", "live", "main")
NPM_SECONDS = 300
GALLERY = "gallery.npz"  # features, for the live parts; not a file of the page


def log(line: str) -> None:
    print(f"explorer: {line}", flush=True)


# ---------------------------------------------------------------- cache


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (p for p in inside if p.is_file() and "__pycache__" not in p.parts)


def kept(name: str, paths: Iterable[Path], make) -> Path:
    """A folder of the cache that `make` fills, unless it did so for the same files before."""
    digest = hashlib.sha256()
    for path in files_of(paths):
        digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    folder = CACHE / "explorer" / f"{name}-{digest.hexdigest()[:20]}"
    if not folder.is_dir():
        log(f"making its {name}, which is kept in {folder.parent}")
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        unfinished.mkdir(parents=True)
        try:
            make(unfinished)
            if not folder.is_dir():
                unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


# ---------------------------------------------------------------- the three parts


def make_data(folder: Path) -> None:
    import numpy as np
    import precompute

    from daitir.studies.engine.bench import Bench
    from daitir.studies.profiles import get_profile

    bench = Bench(get_profile("classroom"), None, folder / "work", CACHE / "views")
    data, features = precompute.make(bench, folder)
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    (folder / "dialogues.json").write_text(text, "utf-8")
    np.savez(folder / GALLERY, **features)


def make_models(folder: Path) -> None:
    import export
    from packs import pack, write

    encoder, dmcl, pipeline = export.load()
    text, trained = export.text_tower(encoder), export.text_tower(dmcl)
    changes, parts = export.difference(text, trained, rank=8)
    write(folder, "text", pack(text.parts("half"), text.graph))
    write(folder, "dmcl", pack(parts, changes=changes))
    fusion, image = export.adafuse(encoder), export.image_tower(encoder)
    write(folder, "adafuse", pack(fusion.parts("half"), fusion.graph))
    write(folder, "image", pack(image.parts("int8"), image.graph))
    for name, part in export.pipeline_parts(pipeline).items():
        write(folder, name, pack(part.parts("int8"), part.graph))
    write(folder, "facts", pack([], **export.facts(encoder, pipeline)))


def make_engine(folder: Path) -> None:
    """The script of the Worker, and onnxruntime's program. Raises OSError where npm fails."""
    from packs import write

    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    packages = folder / "npm"
    (packages / "src").mkdir(parents=True)
    for source in ENGINE_SOURCES:
        shutil.copy(source, packages / source.relative_to(HERE))
    quiet = ["--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=30000"]
    call(packages, npm, "ci", "--ignore-scripts", *quiet)
    bundled = folder / "bundled.js"
    call(
        packages, "node", "node_modules/esbuild/bin/esbuild", "src/engine.js", "--bundle",
        "--minify", "--format=iife", "--target=es2022", "--charset=ascii", "--log-level=error",
        f"--outfile={bundled}",
    )  # fmt: skip
    script = json.dumps(bundled.read_text("utf-8"))
    (folder / "engine.js").write_text(f"(self.PACKS ||= {{}}).engine = {script};\n", "ascii")
    runtime = packages / "node_modules" / "onnxruntime-web" / "dist"
    write(folder, "wasm", (runtime / "ort-wasm-simd-threaded.wasm").read_bytes())
    shutil.rmtree(packages)
    bundled.unlink()


def call(folder: Path, *command: str) -> None:
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=NPM_SECONDS
        )
    except (subprocess.SubprocessError, OSError) as error:
        told = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise OSError(f"{Path(command[0]).name} failed: {' '.join(told[:1])}") from error


def page_script() -> str:
    """The page's modules as one classic script, since a file may not load modules."""
    script = '"use strict";\nconst modules = {};\n'
    for name in PAGE_MODULES:
        source = (HERE / "src" / f"{name}.js").read_text("utf-8")
        source = re.sub(
            r'^import (\{[^}]*\}) from "\./(\w+)\.js";$',
            r"const \1 = modules.\2;",
            source,
            flags=re.M,
        )
        given = re.findall(r"^export (?:async )?(?:const|function|class) (\w+)", source, flags=re.M)
        source = re.sub(r"^export ", "", source, flags=re.M)
        script += f"modules.{name} = (() => {{\n{source}return {{ {', '.join(given)} }};\n}})();\n"
    return f"(() => {{\n{script}}})();\n"


# ---------------------------------------------------------------- all of it


def build(out: Path) -> None:
    """Writes the page into a folder, which is emptied first."""
    import numpy as np
    from packs import Part, pack, write

    data = kept("data", [*DATA_SOURCES, ASSETS], make_data)
    live = []
    try:
        live.append(kept("engine", [*ENGINE_SOURCES, HERE / "packs.py"], make_engine))
        sources = [HERE / "export.py", HERE / "packs.py", ASSETS]
        live.append(kept("models", sources, make_models))
    except (OSError, ImportError) as error:
        log(f"without the live parts: {error}")
        live = []
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in ("index.html", "style.css"):
        shutil.copy(HERE / "src" / name, out)
    for picture in data.glob("*.webp"):
        shutil.copy(picture, out)
    facts = json.loads((data / "dialogues.json").read_text("utf-8")) | {"live": bool(live)}
    text = json.dumps(facts, separators=(",", ":"), ensure_ascii=False)
    (out / "dialogues.js").write_text(f"(self.PACKS ||= {{}}).dialogues = {text};\n", "utf-8")
    (out / "page.js").write_text(page_script(), "utf-8")
    for folder in live:
        for script in folder.glob("*.js"):
            shutil.copy(script, out)
    if live:
        features = np.load(data / GALLERY)
        write(out, "gallery", pack([Part(features["zero_shot"], "int16")]))
        write(out, "gallery_dmcl", pack([Part(features["dmcl"], "int8")]))
    size = sum(path.stat().st_size for path in out.iterdir())
    log(f"{size / 1e6:.1f} MB in {out}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of models that load
    build(Path(sys.argv[1]).resolve())
