"""From a data set to answers: steps before and after the model, run as stages of a stream."""
