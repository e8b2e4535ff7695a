"""Where vectors are kept to be searched: tables of vector databases, one module for each, and the files of jobs."""
