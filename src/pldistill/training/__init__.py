"""From a recipe to a trained student: what is built of it, the loop, what a run leaves in its folder."""
