#!/bin/sh
# The C++ kernel on another CPU, aarch64 with NEON: compiles it for that, and runs tests of it under qemu.
#
#   bench/aarch64.sh                   the tests below: five minutes of a core, a fifth of that to begin with
#   bench/aarch64.sh -x test_chain.py  what pytest is told instead
#
# Debian or Ubuntu on x86-64 with: apt-get install qemu-user-static g++-aarch64-linux-gnu
# Python of that CPU comes from apt, PyTorch from pip, into build/aarch64; nothing is installed on this machine. Speeds say
# nothing here: what the compiler makes of the kernel can be read with aarch64-linux-gnu-objdump.
set -eu
cd "$(dirname "$0")/.."
here=$PWD/build/aarch64 python=${PYTHON:-python3}

# Known answers, instruction sets and states of 16 bits, chains of steps, masks, frames, and random rules against float64.
tests="test_vectors.py test_rollout_cpu.py test_chain.py test_fire_mask.py test_frames.py test_error_bound.py"

if [ ! -e "$here/ready" ]; then
  mkdir -p "$here/apt/lists/partial" "$here/apt/archives/partial" "$here/root"
  : >"$here/apt/status"
  for step in update "install --no-install-recommends --download-only python3-minimal libpython3-stdlib libstdc++6"; do
    apt-get -y -q -o Dir::State="$here/apt" -o Dir::State::status="$here/apt/status" -o Dir::Cache="$here/apt" \
      -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Debug::NoLocking=1 $step
  done
  for package in "$here"/apt/archives/*.deb; do dpkg-deb -x "$package" "$here/root"; done
  version=$(basename "$here"/root/usr/bin/python3.*)
  ours() {
    "$python" -m pip install --quiet --no-warn-conflicts --only-binary=:all: --target "$here/site" --upgrade --implementation cp \
      --python-version "${version#python}" --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
      --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 "$@"
  }
  ours --no-deps torch==2.10.0  # later ones bring CUDA to this CPU
  ours filelock fsspec hypothesis huggingface_hub jinja2 networkx numpy pillow pytest safetensors sympy tqdm typing-extensions tyro
  # Programs that tests start are of that CPU, too: qemu is told to call itself by the name of this script.
  cat >"$here/python" <<END
#!/bin/sh
exec qemu-aarch64-static -L "$here/root" -0 "\$0" "$here/root/usr/bin/$version" "\$@"
END
  chmod +x "$here/python"
  touch "$here/ready"
fi

export PYTHONHOME="$here/root/usr" PYTHONPATH="$PWD:$here/site" PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME="$here/cache"
export CXX=aarch64-linux-gnu-g++ NCA_FAST_ISA=armv8-a OMP_WAIT_POLICY=passive
cd tests
[ $# -gt 0 ] || set -- $tests
exec "$here/python" -m pytest -p no:cacheprovider -o addopts= -q "$@"
