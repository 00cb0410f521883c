"""The record of a job, and the file to which programs append records, killed or not."""
