"""What the nets are trained to do: the task's own loss and its metrics. One file a task."""
