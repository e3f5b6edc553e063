"""What this workflow uses of Snakemake beyond its documented interface, in one place.

Each function names the release that it was read in. None of this is promised by Snakemake: pyproject.toml allows no
other major version, and a new minor one needs this file read beside its sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from snakemake.rules import Rule
    from snakemake.workflow import Workflow


def given_cores(workflow: Workflow) -> int | None:
    """--cores; None where none are given, as for --unlock or on a cluster, where workflow.cores is an error.

    Read in 9.27.1: Workflow.resource_settings, ResourceSettings.cores.
    """
    return workflow.resource_settings.cores


def resource_limit(workflow: Workflow, name: str) -> int | None:
    """The amount of a resource that all jobs share, --resources NAME=AMOUNT; None where it is not limited.

    Read in 9.27.1: Workflow.global_resources, resources.Resources.get.
    """
    return workflow.global_resources.get(name).value


def given_config(workflow: Workflow) -> Mapping[str, Any]:
    """What --configfile and --config set, without the values of the Snakefile's own `configfile:`.

    Read in 9.27.1: Workflow.config_settings, ConfigSettings.overwrite_config.
    """
    return workflow.config_settings.overwrite_config


def first_output(workflow: Workflow, rule: str, wildcards: Mapping[str, str]) -> str:
    """The first output of a rule's job.

    Read in 9.27.1: Workflow.get_rule, Rule.output, io._IOFile.apply_wildcards.
    """
    return workflow.get_rule(rule).output[0].apply_wildcards(wildcards)


def recorded_params(workflow: Workflow, output: str) -> Sequence[str]:
    """The params that a file was made with, as `repr` writes them; none where nothing is recorded.

    Read in 9.27.1: Workflow.persistence, PersistenceBase.params and _serialize_param.
    """
    return workflow.persistence.params(output) or ()


def is_recorded(workflow: Workflow, output: str) -> bool:
    """Whether Snakemake has taken note that a file is complete.

    Read in 9.27.1: Workflow.persistence, PersistenceBase.metadata, MetadataRecord.incomplete.
    """
    record = workflow.persistence.metadata(output)
    return record is not None and not record.incomplete


def make_names_targets(run: str) -> None:
    """Makes the name of a rule a target, `snakemake summary`: its files of the run, where {run} is its only wildcard.

    Snakemake itself refuses the name of a rule that has wildcards.

    Read in 9.27.1: dag.DAG.rule2job, which makes the job of a target that is a rule's name, and DAG.new_job.
    """
    from snakemake.dag import DAG

    refusing = DAG.rule2job

    async def rule2job(self: DAG, rule: Rule) -> Any:
        if rule.wildcard_names == {"run"}:
            return await self.new_job(rule, wildcards_dict={"run": run})
        return await refusing(self, rule)

    DAG.rule2job = rule2job


def options_of(words: Sequence[str]) -> argparse.Namespace:
    """The options that Snakemake takes from the words of a command line, its profiles read.

    Read in 9.27.1: cli.parse_args.
    """
    from snakemake import cli

    return cli.parse_args(list(words))[1]


def locks(folder: Path) -> list[Path]:
    """The files by which a Snakemake that lives in a folder, or was killed there, has locked it.

    Read in 9.27.1: persistence.file.FilePersistence, whose _lockdir this is.
    """
    return list(folder.glob(".snakemake/locks/*"))


def logs(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The logs of the Snakemakes that ran in a folder, with their {"Host": ..., "User": ...}; {} where one has none.

    Read in 9.27.1: logging.DefaultFormatter.format_workflow_started, which writes these two lines.
    """
    for log in folder.glob(".snakemake/log/*.log"):
        text = log.read_text(errors="replace")
        yield log, dict(re.findall(r"^  (Host|User): (.*)$", text, re.MULTILINE))


def is_slurm_job(name: str) -> bool:
    """Whether a job in Slurm has the name that Snakemake gives its own, which ends in the id of a run.

    Read in snakemake-executor-plugin-slurm 2.8.0: Executor.run_uuid.
    """
    return re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", name) is not None
