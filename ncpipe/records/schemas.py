"""Schemas of the Parquet tables, with unit and meaning of every column in its field metadata."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 8


def _field(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)


_SOURCE = _field("source", pa.string(), "net: a trained network; ufm: a fitted unconstrained-features model")
_RUN_ID = _field("run_id", pa.string(), "id of the run: slug and hash of its settings")
_TIME = _field("time", pa.int64(), "epoch of a network, iteration of a UFM solver, step of continual learning")

_TEXT, _INT, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_REALS, _INTS = pa.list_(pa.float64()), pa.list_(pa.int64())

RUNS = pa.schema(
    [
        _SOURCE,
        _RUN_ID,
        _field("kind", _TEXT, "network | declared (UFM of the ufm block) | matched (UFM of a network) | continual"),
        _field(
            "network_id",
            _TEXT,
            "matched UFM: the network it is matched to; continual: that whose features it learns on",
        ),
        _field("status", _TEXT, "done | diverged | missing (planned, no result on disk)"),
        _field("label", _TEXT, "short name for legends: the settings that vary between the runs"),
        _field("selected", _FLAG, "network: chosen by networks.select; null without that rule"),
        _field("dataset", _TEXT, "data set name"),
        _field("dataset_id", _TEXT, "id of the prepared data set"),
        _field("classes", _INT, "number of classes K"),
        _field("train_samples", _INT, "training samples N"),
        _field("model", _TEXT, "network architecture, or UFM model (plain | extended | deep)"),
        _field("width", _INT, "network width (channels of the first stage, or hidden width)"),
        _field("depth", _INT, "network depth where it is a setting; UFM: number of weight matrices L"),
        _field("batch_norm", _FLAG, "BatchNorm used, where it is a setting"),
        _field("parameters", _INT, "trainable parameters"),
        _field("loss", _TEXT, "name of the loss, as in a config"),
        _field("loss_scaling", _TEXT, "mse: half is 1/(2N) sum |z-y|^2, mean is torch.nn.MSELoss"),
        _field("bias", _TEXT, "network: yes | no; UFM: none | free | the penalty"),
        _field("head", _TEXT, "network: linear, or its hidden layers and temperature, as 'hidden 2, temperature 10'"),
        _field("fixed_etf", _FLAG, "classifier frozen at a simplex ETF"),
        _field("optimizer", _TEXT, "optimiser of the network, or UFM solver"),
        _field("learning_rate", _REAL, "initial learning rate, or step size of the UFM solver"),
        _field("momentum", _REAL, "momentum of sgd"),
        _field(
            "weight_decay",
            _REALS,
            "network: one value, or that of the backbone and that of the head;"
            " UFM: one per trained weight matrix from the first",
        ),
        _field(
            "feature_decay",
            _REAL,
            "penalty of the features: of the head's input (network), of H_1 (UFM); UFM: null with a temperature",
        ),
        _field("decay_group", _TEXT, "which parameters decay"),
        _field("schedule", _TEXT, "learning-rate schedule"),
        _field("epochs", _INT, "planned epochs, iterations of the UFM solver or steps of continual learning"),
        _field("batch_size", _INT, "batch size", "samples"),
        _field("precision", _TEXT, "of the backbone while training, as computed: float32 | tf32 | bf16"),
        _field("gpus", _INT, "processes that share every batch"),
        _field("activation", _TEXT, "UFM: linear | relu between the weight matrices"),
        _field("samples", _INT, "UFM: samples per class n, the mean where classes differ"),
        _field("dim", _INT, "UFM: width d of the features H_1"),
        _field("seed", _INT, "seed of initialisation and data order; continual: the network's"),
        _field("settings", _TEXT, "all settings as JSON"),
        _field("zero_error_epoch", _INT, "first epoch with 100 % running training accuracy; it is measured"),
        _field("final_epoch", _INT, "last completed epoch, iteration or step"),
        _field("final_train_loss", _REAL, "network: evaluation-mode training loss; UFM: objective"),
        _field("final_test_loss", _REAL, "evaluation-mode test loss"),
        _field("final_train_accuracy", _REAL, "evaluation-mode training accuracy", "fraction"),
        _field("final_test_accuracy", _REAL, "evaluation-mode test accuracy", "fraction"),
        _field("device", _TEXT, "device kind the run was computed on"),
        _field(
            "provenance",
            _TEXT,
            "key of the code, packages and hardware that made it, which stand in the file's metadata;"
            " `ncpipe reproduce RUN_ID` makes it again",
        ),
    ]
)

HISTORY = pa.schema(
    [
        _SOURCE,
        _RUN_ID,
        _TIME,
        _field(
            "quantity",
            _TEXT,
            "net: train_loss, train_accuracy (running, training mode), test_loss, test_accuracy (evaluation mode),"
            " learning_rate; continual: train_loss, train_accuracy, test_loss, test_accuracy, test_old_accuracy,"
            " test_new_accuracy, old_loss, before_old_loss, before_old_accuracy; ufm: objective, gap, gradient_norm"
            " (of central_path: objective, nc1_pinv, singular values of the signal-to-noise matrix as snr_1, ..,"
            " and by the law as snr_law_1, ..; of landscape, a time for each critical point from the highest: also"
            " least_eigenvalue, negative_share, index, flat, kinks, live_directions, starts)",
        ),
        _field("value", _REAL, "value of the quantity"),
    ]
)

COLLAPSE = pa.schema(
    [
        _SOURCE,
        _RUN_ID,
        _field("split", _TEXT, "train | test; a UFM has only train"),
        _field("layer", _TEXT, "layer name; 'features' is what the classifier reads"),
        _field("depth", _INT, "position of the layer, 1 is the first measured"),
        _TIME,
        _field("metric", _TEXT, "metric name, see docs/metrics.md"),
        _field("value", _REAL, "value; NaN where the metric is undefined"),
        _field("rank", _INT, "numerical rank of the centred class means"),
        _field("condition", _REAL, "smallest kept over largest singular value of the centred class means"),
        _field("reason", _TEXT, "why the value is NaN; null where it is defined"),
    ]
)

GRAMS = pa.schema(
    [
        _SOURCE,
        _RUN_ID,
        _field("layer", _TEXT, "layer name: the last features, on the training split"),
        _field("time", _INT, "last measured epoch of a network or iteration of a UFM solver"),
        _field(
            "gram",
            _TEXT,
            "means_uncentred: of the class means; means: of the class means minus their mean; weights: of the"
            " classifier's rows. Runs of over 100 classes have none",
        ),
        _field("row", _INT, "class c, from 0, in the order of the data set"),
        _field("column", _INT, "class c', from 0"),
        _field("value", _REAL, "inner product of the vectors of c and c', as measured"),
    ]
)

UFM = pa.schema(
    [
        _RUN_ID,
        _field("kind", _TEXT, "declared | matched"),
        _field("network_id", _TEXT, "matched: the network"),
        _field("model", _TEXT, "plain | extended | deep: one, two or more weight matrices"),
        _field("activation", _TEXT, "linear | relu"),
        _field("classifier", _TEXT, "free | etf: frozen at a simplex ETF with unit rows"),
        _field("nonnegative", _FLAG, "the features H_1 are constrained to be >= 0"),
        _field("loss", _TEXT, "name of the loss, as in a config"),
        _field("smoothing", _REAL, "label_smoothing: alpha"),
        _field("gamma", _REAL, "focal: the exponent"),
        _field("rescale", _REALS, "rescaled mse: k and M"),
        _field("temperature", _REAL, "features and weight rows of unit norm: tau; null where norms are penalised"),
        _field("bias", _TEXT, "none | free | the penalty"),
        _field("classes", _INT, "K"),
        _field("samples", _INT, "N/K, rounded: per class, n; several labels: all samples over K"),
        _field("dim", _INT, "width d of the features H_1"),
        _field("dims", _INTS, "widths of H_1, W_1 H_1, .. where they differ"),
        _field("weight_decay", _REALS, "one per trained weight matrix from the first; null with a temperature"),
        _field("feature_decay", _REAL, "penalty of the features; matched: inferred; null with a temperature"),
        _field("solver", _TEXT, "name of the solver, as in a config"),
        _field("seed", _INT, "seed of the random starts"),
        _field("status", _TEXT, "done | diverged"),
        _field("message", _TEXT, "declared: what the solver reached, and why it stopped"),
        _field("value", _REAL, "objective reached"),
        _field("optimum", _REAL, "objective of the closed form; null where there is none"),
        _field("optimum_is_zero", _FLAG, "the closed-form optimum is the zero solution"),
        _field("scale", _REAL, "closed form: fit x of a class (mse), or margin t (other losses)"),
        _field("rank", _INT, "closed form: rank of the fit"),
        _field("is_global", _FLAG, "the closed form is proven to be the global optimum; else the best value known"),
        _field(
            "zero_threshold",
            _REAL,
            "factor of the penalties of weights and features from which on zero is optimal; inf: never",
        ),
        _field("basis", _TEXT, "theorem the optimum rests on, or why there is no closed form"),
        _field("gap", _REAL, "value - optimum"),
        _field("missed", _FLAG, "declared: value is over 1e-8 relative above the closed form, or the fit diverged"),
        _field("gradient_norm", _REAL, "Euclidean norm of the gradient at the end"),
        _field("iterations", _INT, "solver iterations of the returned start"),
        _field("starts", _INT, "random starts"),
        _field("success_fraction", _REAL, "fraction of starts within 1e-8 relative of the best known value"),
        _field(
            "dead_directions",
            _INT,
            "K (K-1 with bias, frozen classifier or a loss of margins) minus the rank of the fit",
        ),
        _field("predicted_loss", _REAL, "matched: loss without penalties that the model predicts"),
        _field("measured_loss", _REAL, "matched: training loss of the network at its last epoch"),
        _field("predicted_feature_norm", _REAL, "matched: |H|_F of the last features"),
        _field("measured_feature_norm", _REAL, "network: |H|_F of the last features"),
        _field("predicted_weight_norm", _REAL, "matched: |W|_F of the classifier"),
        _field("measured_weight_norm", _REAL, "network: |W|_F of the classifier"),
        _field("predicted_means_gram", _REALS, "matched: uncentred Gram of class means, K x K row by row"),
        _field("measured_means_gram", _REALS, "network: uncentred Gram of class means, K x K row by row"),
        _field("predicted_weights_gram", _REALS, "matched: W W^T, K x K row by row"),
        _field("measured_weights_gram", _REALS, "network: W W^T, K x K row by row"),
        _field("predicted_objective", _REAL, "nothing matched: smallest loss with all penalties"),
        _field("measured_objective", _REAL, "network: the metric objective, where the split full_batch is measured"),
        _field("predicted_hidden_gram", _REALS, "extended: uncentred Gram of class means of H_1"),
        _field("measured_hidden_gram", _REALS, "network: the same of the layer that one matrix leads to the last"),
        _field("predicted_hidden_norm", _REAL, "extended: |H_1|_F over all samples"),
        _field("measured_hidden_norm", _REAL, "network: the same of that layer"),
        _field("predicted_hidden_weight_norm", _REAL, "extended: |W_1|_F"),
        _field("measured_hidden_weight_norm", _REAL, "network: |.|_F of that matrix"),
        _field("means_gram_error", _REAL, "Frobenius distance of the two Grams of class means, each of unit norm"),
        _field("weights_gram_error", _REAL, "Frobenius distance of the two Grams W W^T, each of unit norm"),
        _field("feature_norm_error", _REAL, "abs(log(predicted / measured)) of |H|_F"),
        _field("weight_norm_error", _REAL, "abs(log(predicted / measured)) of |W|_F"),
        _field("loss_error", _REAL, "abs(log(predicted / measured)) of the loss"),
        _field("test_means_gram_error", _REAL, "means_gram_error against the class means of the test split"),
        _field("test_loss_error", _REAL, "loss_error against the loss of the test split"),
        _field("classifier_stationarity", _REAL, "network: the metric at its last epoch; matching assumes 0"),
    ]
)

CLAIMS = pa.schema(
    [
        _field("paper", _TEXT, "key of the paper, e.g. tirer2022"),
        _field("claim_id", _TEXT, "short id, e.g. tirer2022-1"),
        _field("source", _TEXT, "paper the claim is of"),
        _field("statement", _TEXT, "the claim in one sentence"),
        _field("statistic", _TEXT, "what is computed from the tables"),
        _field("direction", _TEXT, "below | above: on which side of the threshold the claim is supported"),
        _field("threshold", _REAL, "chosen before looking"),
        _field("effect", _REAL, "mean over seeds of the median of the statistic over the runs of a seed"),
        _field("low", _REAL, "smallest value over the runs"),
        _field("high", _REAL, "largest value over the runs"),
        _field("interval_low", _REAL, "Student's 95 % interval of the effect over seeds: its lower end"),
        _field("interval_high", _REAL, "its upper end; null with one seed"),
        _field(
            "resolution", _REAL, "half its width: a difference from the threshold that is smaller may not be seen"
        ),
        _field("count", _INT, "runs that enter"),
        _field("holds", _INT, "runs on the stated side of the threshold"),
        _field("seeds", _INT, "different seeds among them"),
        _field("data", _TEXT, "what they were trained on, with the number of classes K and of samples N"),
        _field("scale", _TEXT, "size of the study; null where it has only one"),
        _field("verdict", _TEXT, "supported | contradicted | undecided"),
        _field("reason", _TEXT, "what decided, and where it lies: 'the interval over seeds: on the stated side'"),
    ]
)

TIMINGS = pa.schema(
    [
        _RUN_ID,
        _field("stage", _TEXT, "train | ufm | continual"),
        _TIME,
        _field("seconds", _REAL, "wall clock of the epoch (train), run (continual) or whole batch (ufm)", "s"),
        _field("images_per_second", _REAL, "training throughput", "1/s"),
        _field("finished_at", pa.timestamp("ms", tz="UTC"), "wall clock at the end"),
    ]
)

TABLES = {
    "runs": RUNS,
    "history": HISTORY,
    "collapse": COLLAPSE,
    "grams": GRAMS,
    "ufm": UFM,
    "claims": CLAIMS,
    "timings": TIMINGS,
}
"""All tables by name. ``timings`` alone holds wall-clock times: the others are equal for equal settings."""
