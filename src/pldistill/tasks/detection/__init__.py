"""Object detection: Faster R-CNN with FPN, distilled on the RoIs that the student samples."""
