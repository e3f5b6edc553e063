"""All uses of Snakemake's internals, beyond its documented interface, in one place.

Each function names the release in whose sources its internals were read. Snakemake does not guarantee any of them:
pyproject.toml pins the major version, and for a new minor version this file has to be checked against its sources.
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
    """The value of --cores; None if not given, as for --unlock or on a cluster, where workflow.cores raises an error.

    Read in 9.27.1: Workflow.resource_settings, ResourceSettings.cores.
    """
    return workflow.resource_settings.cores


def resource_limit(workflow: Workflow, name: str) -> int | None:
    """The amount of a resource that all jobs share, --resources NAME=AMOUNT; None if it is not limited.

    Read in 9.27.1: Workflow.global_resources, resources.Resources.get.
    """
    return workflow.global_resources.get(name).value


def given_config(workflow: Workflow) -> Mapping[str, Any]:
    """The values set by --configfile and --config, without those of the Snakefile's own `configfile:`.

    Read in 9.27.1: Workflow.config_settings, ConfigSettings.overwrite_config.
    """
    return workflow.config_settings.overwrite_config


def is_main_process(workflow: Workflow) -> bool:
    """Whether this is the Snakemake that was started, rather than one that it has started for a job, as on a cluster.

    Read in 9.27.1: Workflow.is_main_process; PersistenceBase.finished, by which it alone records what a job was run by.
    """
    return workflow.is_main_process


def reruns_by_params(workflow: Workflow) -> bool:
    """Whether a changed param reruns a job; not so under --rerun-triggers mtime.

    Read in 9.27.1: Workflow.rerun_triggers, settings.types.RerunTrigger.
    """
    from snakemake.settings.types import RerunTrigger

    return RerunTrigger.PARAMS in workflow.rerun_triggers


def config_files(workflow: Workflow) -> Sequence[Path]:
    """The files of --configfile and of the Snakefile's own `configfile:`.

    Read in 9.27.1: Workflow.configfiles, which are paths or text.
    """
    return [Path(file) for file in workflow.configfiles]


def first_output(workflow: Workflow, rule: str, wildcards: Mapping[str, str]) -> str:
    """The first output of a rule's job.

    Read in 9.27.1: Workflow.get_rule, Rule.output, io._IOFile.apply_wildcards.
    """
    return workflow.get_rule(rule).output[0].apply_wildcards(wildcards)


def recorded_params(workflow: Workflow, output: str) -> Sequence[str]:
    """The params that a file was made with, as written by `repr`; empty if nothing is recorded.

    Read in 9.27.1: Workflow.persistence, PersistenceBase.params and _serialize_param.
    """
    return workflow.persistence.params(output) or ()


def is_recorded(workflow: Workflow, output: str) -> bool:
    """Whether Snakemake has recorded that a file is complete.

    Read in 9.27.1: Workflow.persistence, PersistenceBase.metadata, MetadataRecord.incomplete.
    """
    record = workflow.persistence.metadata(output)
    return record is not None and not record.incomplete


def make_names_targets(run: str) -> None:
    """Allows the name of a rule whose only wildcard is {run} as a target, which stands for its files of the main run.

    An example is `snakemake summary`; Snakemake itself refuses rules with wildcards as targets. Such a rule is then a
    target elsewhere too: -R, --until and -P add it to the targets, and --list-target-rules lists it.

    Read in 9.27.1: rules.Rule.has_wildcards, by which Workflow tells what may be a target; dag.DAG.rule2job, which
    makes the job of a target that is a rule's name, and DAG.new_job.
    """
    from snakemake.dag import DAG
    from snakemake.rules import Rule

    refusing = DAG.rule2job

    def has_wildcards(self: Rule) -> bool:
        return not self.wildcard_names <= {"run"}

    async def rule2job(self: DAG, rule: Rule) -> Any:
        if rule.wildcard_names == {"run"}:
            return await self.new_job(rule, wildcards_dict={"run": run})
        return await refusing(self, rule)

    Rule.has_wildcards = has_wildcards
    DAG.rule2job = rule2job


def options_of(words: Sequence[str]) -> argparse.Namespace:
    """Parses a command line as Snakemake does, including its profiles.

    Read in 9.27.1: cli.parse_args.
    """
    from snakemake import cli

    return cli.parse_args(list(words))[1]


def locks(folder: Path) -> list[Path]:
    """The lock files in a folder of a Snakemake that is running there or was killed.

    Read in 9.27.1: persistence.file.FilePersistence, whose _lockdir this is.
    """
    return list(folder.glob(".snakemake/locks/*"))


def logs(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yields the logs of earlier Snakemakes in a folder, with their {"Host": ..., "User": ...}; {} if a log has none.

    Read in 9.27.1: logging.DefaultFormatter.format_workflow_started, which writes these two lines.
    """
    for log in folder.glob(".snakemake/log/*.log"):
        # Nobody would end a pipe of such a name.
        text = log.read_text(errors="replace") if log.is_file() else ""
        yield log, dict(re.findall(r"^  (Host|User): (.*)$", text, re.MULTILINE))


def is_slurm_job(name: str) -> bool:
    """Whether a Slurm job was submitted by Snakemake, whose job names end in the id of a run.

    Read in snakemake-executor-plugin-slurm 2.8.0: Executor.run_uuid.
    """
    return re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", name) is not None
