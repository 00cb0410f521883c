"""What one sees of the work: frames, plots, progress bars, summaries."""
