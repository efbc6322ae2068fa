"""A posterior is another denoiser: the expectation of the latents without noise, given observations as well."""
