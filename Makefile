PYTHON ?= python3
VENV := .venv
DEMO := .venv-demo
DATA ?= $(HOME)/.cache/cardiogloss/data

.PHONY: demo test mosquitto chromium lint format model figures clean

demo: $(DEMO)/.installed
	@mkdir -p demo
	$(DEMO)/bin/cardiogloss replay tests/data/mitdb201af --plot demo/mitdb201af.png --report demo/mitdb201af.html

test: $(VENV)/.installed mosquitto chromium
	CARDIOGLOSS_DATA=$(DATA) $(VENV)/bin/pytest

# The MQTT broker that the tests run, without which they fail, and its clients, without which some are skipped.
mosquitto: ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
mosquitto:
	@command -v mosquitto >/dev/null || test -x /usr/sbin/mosquitto || test -x /usr/local/sbin/mosquitto \
	    || { $(ROOT) apt-get update -qq; $(ROOT) apt-get install -y -qq --no-install-recommends mosquitto mosquitto-clients; } \
	    || { echo "The tests need the MQTT broker mosquitto: install it (apt install mosquitto, dnf install mosquitto, brew install mosquitto)" >&2; exit 1; }

# The browser that the tests of pages drive; without it they are skipped.
chromium: ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	    || { $(ROOT) apt-get update -qq && $(ROOT) apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
	    || echo "No Chromium, and apt has none: the tests that drive a browser are skipped" >&2

lint: $(VENV)/.linters
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.linters
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

RECIPE ?= cardiogloss
RUN := runs/$(RECIPE)
SETS := --root $(DATA)/ptb-xl --root $(DATA)/ptb-xl-znorm --noise $(DATA)/nstdb

# One recipe (cardiogloss, mets, etp), from the data to a calibrated bundle; goes on where it was stopped.
model: $(VENV)/.installed
	$(VENV)/bin/cardiogloss-trainer train --recipe $(RECIPE) $(SETS) --out $(RUN)
	$(VENV)/bin/cardiogloss-kernels export $(RUN) --out $(RUN)/raw.onnx
	$(VENV)/bin/cardiogloss-trainer calibrate --bundle $(RUN)/raw.onnx --root $(DATA)/ptb-xl --out $(RUN)/$(RECIPE).onnx

# The figures of the README: each recipe under the same protocol on each data set, and the held-out findings. Wants the three models.
FIGURES := runs/figures
BUNDLES := --bundle kernels/shipped/cardiogloss.onnx --bundle runs/mets/mets.onnx --bundle runs/etp/etp.onnx
figures: $(VENV)/.installed
	mkdir -p $(FIGURES)
	$(VENV)/bin/cardiogloss-trainer evaluate $(BUNDLES) --root $(DATA)/ptb-xl --leads all --leads I --leads II --leads I,II,V2 \
	    --json $(FIGURES)/ptb-xl.json --markdown $(FIGURES)/ptb-xl.md --plots $(FIGURES)/ptb-xl
	$(VENV)/bin/cardiogloss-trainer evaluate $(BUNDLES) --root $(DATA)/ptb-xl --probe --json $(FIGURES)/probe.json --markdown $(FIGURES)/probe.md
	for set in cinc2017 mitdb; do $(VENV)/bin/cardiogloss-trainer evaluate $(BUNDLES) --dataset $$set --root $(DATA)/$$set \
	    --json $(FIGURES)/$$set.json --markdown $(FIGURES)/$$set.md; done
	$(VENV)/bin/cardiogloss-trainer held-out $(SETS) --parts 3 --set epochs=40 --set short_epochs=40 --out runs/held-out --json $(FIGURES)/held-out.json

$(DEMO)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet --disable-pip-version-check -e '.[plot]'
	@touch $@

# torch first and by itself: a range would draw the build with CUDA.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[train,test]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[tensorrt]' \
	    || echo "TensorRT-RTX is not to be had for this machine: the tests of its parser and builder are skipped" >&2
	@touch $@

$(VENV)/.linters: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[lint]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) demo runs build *.egg-info
