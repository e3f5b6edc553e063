# The stages of a run's variants: the same rules, whose files lie in the variant's folder, or in that of several variants.


localrules:
    fetch_weights_variant,


use rule index_dataset as index_dataset_variant with:
    output:
        **converted_masks(SETTINGS.data, "results/{run}"),
        index="results/{run}/index.csv",
        classes="results/{run}/classes.txt",
        report="results/{run}/index.json",
    log:
        "results/{run}/logs/index_dataset.log",
    benchmark:
        "results/{run}/benchmarks/index_dataset.tsv"
    message:
        "index_dataset: {wildcards.run}"


use rule fetch_weights as fetch_weights_variant with:
    output:
        "results/{run}/weights/{section}.json",
    log:
        "results/{run}/logs/fetch_weights/{section}.log",
    benchmark:
        "results/{run}/benchmarks/fetch_weights/{section}.tsv"
    message:
        "fetch_weights: {wildcards.run}, {wildcards.section}"


use rule train_classifier as train_classifier_variant with:
    output:
        weights="results/{run}/classifier/model.safetensors",
        model="results/{run}/classifier/model.json",
        metrics="results/{run}/classifier/metrics.json",
    log:
        "results/{run}/logs/train_classifier.log",
    benchmark:
        "results/{run}/benchmarks/train_classifier.tsv"
    message:
        "train_classifier: {wildcards.run}"


use rule dump_maps as dump_maps_variant with:
    output:
        directory("results/{run}/maps/{shard}"),
    log:
        "results/{run}/logs/dump_maps/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/dump_maps/{shard}.tsv"
    message:
        "dump_maps: {wildcards.run}, shard {wildcards.shard}"


use rule refine_maps as refine_maps_variant with:
    output:
        directory("results/{run}/refined/{shard}"),
    log:
        "results/{run}/logs/refine_maps/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/refine_maps/{shard}.tsv"
    message:
        "refine_maps: {wildcards.run}, shard {wildcards.shard}"


use rule train_saliency as train_saliency_variant with:
    output:
        weights="results/{run}/saliency_model/model.safetensors",
        model="results/{run}/saliency_model/model.json",
        metrics="results/{run}/saliency_model/metrics.json",
    log:
        "results/{run}/logs/train_saliency.log",
    benchmark:
        "results/{run}/benchmarks/train_saliency.tsv"
    message:
        "train_saliency: {wildcards.run}"


use rule predict_saliency as predict_saliency_variant with:
    output:
        directory("results/{run}/saliency/{shard}"),
    log:
        "results/{run}/logs/predict_saliency/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/predict_saliency/{shard}.tsv"
    message:
        "predict_saliency: {wildcards.run}, shard {wildcards.shard}"


use rule collect_saliency as collect_saliency_variant with:
    output:
        directory("results/{run}/saliency/{shard}"),
    log:
        "results/{run}/logs/collect_saliency/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/collect_saliency/{shard}.tsv"
    message:
        "collect_saliency: {wildcards.run}, shard {wildcards.shard}"


use rule complete_labels as complete_labels_variant with:
    output:
        directory("results/{run}/pseudo_labels/{shard}"),
    log:
        "results/{run}/logs/complete_labels/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/complete_labels/{shard}.tsv"
    message:
        "complete_labels: {wildcards.run}, shard {wildcards.shard}"


use rule score_labels as score_labels_variant with:
    output:
        "results/{run}/pseudo_labels.json",
    log:
        "results/{run}/logs/score_labels.log",
    benchmark:
        "results/{run}/benchmarks/score_labels.tsv"
    message:
        "score_labels: {wildcards.run}"


use rule train_deeplab as train_deeplab_variant with:
    output:
        weights="results/{run}/deeplab/model.safetensors",
        model="results/{run}/deeplab/model.json",
    log:
        "results/{run}/logs/train_deeplab.log",
    benchmark:
        "results/{run}/benchmarks/train_deeplab.tsv"
    message:
        "train_deeplab: {wildcards.run}"


use rule predict_deeplab as predict_deeplab_variant with:
    output:
        directory("results/{run}/deeplab/predictions"),
    log:
        "results/{run}/logs/predict_deeplab.log",
    benchmark:
        "results/{run}/benchmarks/predict_deeplab.tsv"
    message:
        "predict_deeplab: {wildcards.run}"


use rule evaluate_deeplab as evaluate_deeplab_variant with:
    output:
        "results/{run}/deeplab/metrics.json",
    log:
        "results/{run}/logs/evaluate_deeplab.log",
    benchmark:
        "results/{run}/benchmarks/evaluate_deeplab.tsv"
    message:
        "evaluate_deeplab: {wildcards.run}"


use rule train_end_to_end as train_end_to_end_variant with:
    output:
        weights="results/{run}/end_to_end/model.safetensors",
        model="results/{run}/end_to_end/model.json",
    log:
        "results/{run}/logs/train_end_to_end.log",
    benchmark:
        "results/{run}/benchmarks/train_end_to_end.tsv"
    message:
        "train_end_to_end: {wildcards.run}"


use rule import_checkpoint as import_checkpoint_variant with:
    output:
        weights="results/{run}/imported/model.safetensors",
        model="results/{run}/imported/model.json",
    log:
        "results/{run}/logs/import_checkpoint.log",
    benchmark:
        "results/{run}/benchmarks/import_checkpoint.tsv"
    message:
        "import_checkpoint: {wildcards.run}"


use rule predict_end_to_end as predict_end_to_end_variant with:
    output:
        directory("results/{run}/end_to_end/predictions"),
    log:
        "results/{run}/logs/predict_end_to_end.log",
    benchmark:
        "results/{run}/benchmarks/predict_end_to_end.tsv"
    message:
        "predict_end_to_end: {wildcards.run}"


use rule evaluate_end_to_end as evaluate_end_to_end_variant with:
    output:
        "results/{run}/end_to_end/metrics.json",
    log:
        "results/{run}/logs/evaluate_end_to_end.log",
    benchmark:
        "results/{run}/benchmarks/evaluate_end_to_end.tsv"
    message:
        "evaluate_end_to_end: {wildcards.run}"


if SETTINGS.saliency.source == "folder":

    ruleorder: collect_saliency_variant > predict_saliency_variant

else:

    ruleorder: predict_saliency_variant > collect_saliency_variant
