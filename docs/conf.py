"""Sphinx configuration."""

import sk_e2cm

project = "sk-e2cm"
author = "sk-e2cm developers"
copyright = "2026, sk-e2cm developers"
version = release = sk_e2cm.__version__

# No intersphinx: the build must work without a network.
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]

autosummary_generate = True
autodoc_typehints = "none"  # the numpydoc sections state the types
autodoc_default_options = {
    # What scikit-learn adds to every estimator points at its own documentation.
    "exclude-members": "get_metadata_routing, set_fit_request, set_output, "
    "set_partial_fit_request, set_score_request",
}
# The class template lists the members already.
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = f"sk-e2cm {release}"
html_show_sourcelink = False
