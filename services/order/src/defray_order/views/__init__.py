"""Show: the forms in which the API shows what is not announced in that form."""
