"""Sphinx configuration."""

from importlib.metadata import metadata

from numpydoc.xref import DEFAULT_LINKS

import sk_e2cm

project = "sk-e2cm"
author = "sk-e2cm developers"
copyright = "2026, sk-e2cm developers"
version = release = sk_e2cm.__version__

# No intersphinx, and MathJax from a package: the build and its pages must work without
# a network.
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "myst_parser",
    "numpydoc",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "auto_examples/*.ipynb"]

autosummary_generate = True
autodoc_typehints = "none"  # the numpydoc sections state the types
# What scikit-learn adds to every estimator points at its own documentation.
ADDED_BY_SKLEARN = [
    "get_metadata_routing",
    "set_fit_request",
    "set_output",
    "set_partial_fit_request",
    "set_score_request",
]
autosummary_context = {"added_by_sklearn": ADDED_BY_SKLEARN}
# Names of methods alone, so that they fit beside the page.
toc_object_entries_show_parents = "hide"
# The class template lists the members already.
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
# Names of this package become links; those of Python and NumPy would lead elsewhere.
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {name: name for name in DEFAULT_LINKS} | {
    name: f"sk_e2cm.{name}" for name in sk_e2cm.__all__ if name[0].isupper()
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    # The other files are commands, and what several examples need.
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "within_subsection_order": "FileNameSortKey",
    # Each example links the classes it uses, and they link it.
    "doc_module": "sk_e2cm",
    "reference_url": {"sk_e2cm": None},
    "backreferences_dir": "generated/backreferences",
    "remove_config_comments": True,
    "min_reported_time": 1,
    "download_all_examples": False,
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"sk-e2cm {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_last_updated_fmt = "%Y-%m-%d"
html_sidebars = {"index": []}

urls = dict(
    line.split(", ", 1) for line in metadata("sk-e2cm").get_all("Project-URL") or []
)
html_theme_options = {
    "logo": {"text": f"sk-e2cm {release}"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "icon_links": [
        {"name": name, "url": urls[name], "icon": icon}
        for name, icon in [
            ("Source", "fa-solid fa-code-branch"),
            ("Issues", "fa-solid fa-circle-exclamation"),
            ("Paper", "fa-solid fa-file-lines"),
        ]
        if name in urls
    ],
    "footer_start": ["copyright"],
    "footer_center": ["last-updated"],
    "footer_end": ["sphinx-version"],
    "show_prev_next": True,
    "navigation_with_keys": False,
}
