"""Results of benchmarks as tables and pages."""
