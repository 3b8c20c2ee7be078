"""What uses models: one Ray Serve application a file, plus what all of them share."""
