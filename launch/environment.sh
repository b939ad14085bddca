# shellcheck shell=bash
# Sourced by the other scripts: stands in the repository, makes .venv and installs requirements.txt into it; and, where the
# script's first arguments are --accelerator cuda12, cuda13 or tpu, what JAX needs to compute on one.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: Python 3.11 or later is needed; set PYTHON to one" >&2
    exit 1
fi
extra=""
if [ "${1:-}" = --accelerator ]; then
    case "${2:-}" in
        cuda12 | cuda13 | tpu) extra="jax[$2]==$(sed -n 's/^jax==//p' requirements.txt)" && shift 2 ;;
        *) echo "error: --accelerator ${2:-} is none of cuda12, cuda13 and tpu" >&2 && exit 2 ;;
    esac
fi
stamp=.venv/installed-requirements.txt
if ! cmp -s requirements.txt "$stamp"; then
    echo "installing requirements.txt into .venv ..."
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
    # The checkout itself is importable, from the scripts of benchmarks/ too.
    pwd >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gfn_jax_checkout.pth"
    cp requirements.txt "$stamp"
fi
if [ -n "$extra" ]; then
    echo "installing $extra into .venv ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$extra"
fi
export TOKENIZERS_PARALLELISM=false
