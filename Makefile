# Two commands do everything on a fresh machine (Python 3.11, git, make): `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
RUN := PYTHONPATH=.:plugins $(VENV)/bin/python
# of pytest, where nothing was to be run
NONE_CHOSEN := 5

.DEFAULT_GOAL := help
.PHONY: help install spark demo backfill up down status airflow job test lint bench docs lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | column -t -s "$$(printf '\t')"

install: $(VENV)/.installed .local/venvs/ministack/.installed  ## the virtual environments (the other targets do this by themselves)

$(VENV)/.installed: requirements.txt
	@echo "Installing into $(VENV): a few minutes, once."
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

.local/venvs/ministack/.installed: requirements-ministack.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-ministack.txt
	@touch $@

spark: .local/venvs/spark/.installed  ## PySpark, for features_engine = "spark" in the settings file (wants Java 17 or later)

# Two packages that import on top of the jobs' environment: a folder on PYTHONPATH, not an environment.
.local/venvs/spark/.installed: requirements-spark.txt | $(VENV)/.installed
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --target $(@D) --requirement requirements-spark.txt
	@touch $@

demo: install  ## the main job on this machine: events in, a live fraud endpoint and a review queue out (DOMAIN=, SCENARIO=bad_challenger, LANDING=dir, YEAR=, KEEP=0)
	@$(RUN) -m include.laptop demo $(if $(DOMAIN),--domain $(DOMAIN)) $(if $(LANDING),--landing "$(LANDING)") $(if $(YEAR),--year $(YEAR)) $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(filter 0,$(KEEP)),--stop)

backfill: install  ## train history again and see when retraining would have paid (DOMAIN=, FROM=, TO=, AT_ONCE=2, AGAIN=1)
	@$(RUN) -m include.laptop backfill $(if $(DOMAIN),--domain $(DOMAIN)) $(if $(FROM),--from-date "$(FROM)") $(if $(TO),--to-date "$(TO)") $(if $(AT_ONCE),--at-once $(AT_ONCE)) $(if $(filter 1,$(AGAIN)),--again)

up: install  ## start the stack again, with everything still there
	@$(RUN) -m include.laptop up

down:  ## stop the stack; its state stays in .local
	@test ! -x $(VENV)/bin/python || $(RUN) -m include.laptop down

status:  ## what runs, and where
	@$(RUN) -m include.laptop status

airflow: install  ## an airflow command on the stack: make airflow CMD="dags list"
	@$(RUN) -m include.laptop airflow -- $(CMD)

job: install  ## one of the jobs' commands on the stack's data: make job CMD="history --domain card_payments"
	@$(RUN) -m include.laptop job -- $(CMD)

test: install  ## all tests, the main job on a stack of its own among them (PYTEST="-k name" to choose)
	@$(RUN) -m pytest -m "not stack" --numprocesses logical --dist loadfile $(PYTEST) || test $$? -eq $(NONE_CHOSEN)
	@$(RUN) -m pytest -m stack $(PYTEST) || test $$? -eq $(NONE_CHOSEN)

lint: install  ## ruff (with Airflow's rules) and mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

bench: install  ## what is measured, against whom; tables here, figures in .local/bench
	@$(RUN) -m bench

docs: install  ## docs/DAGs.md, written from the DAGs
	@$(RUN) -m include.laptop dags-page docs/DAGs.md

lock:  ## requirements*.txt from requirements*.in (needs uv)
	@uv pip compile --quiet --python-version 3.11 requirements.in -o requirements.txt
	@uv pip compile --quiet --python-version 3.11 requirements-jobs.in -c requirements.txt -o requirements-jobs.txt
	@uv pip compile --quiet --python-version 3.11 requirements-ministack.in -o requirements-ministack.txt
	@uv pip compile --quiet --python-version 3.11 requirements-spark.in -o requirements-spark.txt

clean: down  ## forget all stacks and measured figures (.local but for its virtual environments)
	@test ! -d .local || find .local -mindepth 1 -maxdepth 1 ! -name venvs -exec rm -rf {} +
