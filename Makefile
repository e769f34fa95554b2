# Every target sets up .venv itself. A bare machine needs Python 3.11 or newer, and make.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo docs test test-slow test-parity check-docs test-docs test-notebooks test-wheel fuzz bench \
  lint format clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: .venv/installed
	$(BIN)/python train.py --config=configs/shapes.py --workdir=runs/demo

# Marks of the tests that have a target of their own.
BY_HAND := slow or parity or docs or notebooks or wheel

test: .venv/installed
	$(BIN)/python -m pytest -q -m 'not ($(BY_HAND))' -n 2 --dist loadfile --no-loadscope-reorder

test-slow: .venv/parity
	$(BIN)/python -m pytest -q -m slow

# MMDetection, and the packages that it imports and nothing else here needs. mmcv-lite lacks the
# operators that would have to be compiled; the tests give it torchvision's.
MMDETECTION := mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7 addict==2.4.0 yapf==0.43.0 \
  platformdirs==4.14.8 shapely==2.2.0 terminaltables==3.1.10 matplotlib contourpy cycler fonttools \
  kiwisolver pyparsing python-dateutil

# Without the packages that it needs for videos.
SUPERVISION := supervision==0.31.2 'pydeprecate<0.14' defusedxml

# The live comparison with torchvision, MMDetection, and the package that counts AP for LVIS. The
# versions are pinned, because a build of torchvision has compiled operators for one version of
# torch only.
.venv/parity: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt \
	  $(MMDETECTION) lvis==0.5.3 $(SUPERVISION)
	touch $@

test-parity: .venv/parity
	$(BIN)/python -m pytest -q -m 'parity and not slow' -n 2 --dist worksteal

# The site of documentation, in build/site. It needs no network to be read.
.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

docs: .venv/docs
	$(BIN)/python -m mkdocs build --quiet

# Builds the site, without a broken link, and searches it in Chromium, if that is installed.
check-docs: docs
	$(BIN)/python -m pytest -q -m docs tests/site/test_site.py -k search

# Opens every page in Chromium.
test-docs: docs
	$(BIN)/python -m pytest -q -m docs tests/site

# Executes notebooks/ on small models. XLA hurries: their programs compile for longer than they run.
HURRY := --xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 \
  --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1
test-notebooks: .venv/installed
	XLA_FLAGS="$(HURRY)" $(BIN)/python -m pytest -q -m notebooks -n 2 tests/test_docs_code.py

# Tests the wheel in a new environment with the packages that the wheel requires and no others. With
# another Python and the newest packages:
#   make test-wheel WHEEL_PYTHON=python3.13 WHEEL_CONSTRAINTS=/dev/null
export WHEEL_PYTHON WHEEL_CONSTRAINTS
test-wheel: .venv/installed
	$(BIN)/python -m pytest -q -m wheel tests/test_wheel.py

# Tries random inputs for a while: annotations, masks, images, configs, checkpoints, weights.
SECONDS ?= 1800
fuzz: .venv/installed
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

.venv/benchmarks: .venv/parity
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[benchmarks]'
	touch $@

# Speed against torchvision: half an hour on an idle machine. Writes a table and a plot to
# benchmarks/results/.
bench: .venv/benchmarks
	$(BIN)/python -m benchmarks

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs
