"""Pages, figures and reports that a person looks at."""
