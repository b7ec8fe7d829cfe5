"""Run records in; tables, figures and a report out. Nothing here trains or loads a model."""
