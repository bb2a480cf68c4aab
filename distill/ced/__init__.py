"""Audio taggers (CED, arXiv:2308.11957): recipe, task, loss and student; what they are made of is
in `model`, where clips and views come from in `data`, whom they learn from in `teachers`, other
runtimes in `export`. """
