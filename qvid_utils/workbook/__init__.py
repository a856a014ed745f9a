"""What the notebooks need around the library: benchmarks, runs, tables, costs, plots, studies."""
