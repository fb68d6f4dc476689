"""The privacy–utility–leakage frontier: settings side by side, each over several seeds, on one page and in files for papers.

``points`` reads the runs and takes means over seeds, ``verdict`` says in sentences what was learned, ``figures`` draws,
``tables`` writes the table as CSV, Markdown and LaTeX, and ``page`` fills the template.
"""
