"""My claims."""

from ncpipe.claims import claim, final, run_ids

TRAINED = "kind == 'network' and status == 'done'"


# Choose the threshold before you look. The function gives a number for every run that the claim speaks of.
@claim("Networks collapse.", "nc1_pinv of the last features at the end", below=0.1)
def collapse(tables):
    return final(tables, run_ids(tables, TRAINED), "nc1_pinv")


@claim("Networks fit their training images.", "training accuracy at the end", above=0.95)
def learnt(tables):
    return tables["runs"].query(TRAINED).set_index("run_id")["final_train_accuracy"]
