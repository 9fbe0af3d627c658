#!/usr/bin/env bash
# A virtual environment with CellProfiler, without Java and conda: build_cellprofiler_venv.sh FOLDER [PYTHON]
# Then set in config.yaml: cellprofiler: {command: "FOLDER/bin/cellprofiler -e imageio_reader"}
set -euo pipefail
folder=${1:?usage: build_cellprofiler_venv.sh FOLDER [PYTHON]}
python=${2:-python3.11}
version=5.0.0.dev784
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
    || { echo "CellProfiler $version needs Python 3.11 (found $("$python" -V)); give one as second argument" >&2; exit 1; }
"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" --upgrade pip
"${pip[@]}" "cellprofiler-core-nightly==$version" "cellprofiler-library-nightly==$version" docutils==0.15.2 \
    'imageio>=2.31.3' 'Jinja2>=3.1.2' joblib 'mahotas>=1.4.13' requests 'sentry-sdk~=2.8.0' six tifffile 'rapidfuzz>=3' \
    packaging importlib_metadata
# without its dependencies: wxPython and mysqlclient serve the window and the database only, and need compilers
"${pip[@]}" --no-deps "cellprofiler-nightly==$version"
"$folder/bin/cellprofiler" --version
