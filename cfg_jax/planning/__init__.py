"""Planning: what a training run and a sampler will need on TPUs that are not there yet."""
