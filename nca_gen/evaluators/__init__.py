"""What is asked of a trained run, one question a module: ``evaluate(pipeline, data, folder, /, **section) -> Page``.

``pipeline`` generates (:class:`nca_gen.contracts.Pipeline`), and its part "model" is the run. ``data`` is what samples
are held against (:class:`nca_gen.evaluators.held.Held`), the same for all evaluators of one evaluation, which so share
its samples. Pictures go into ``folder``. The keyword arguments are the section of ``config.evals`` that names the
module, their defaults the usual values. An evaluator that has nothing to do returns a page without content, which is
not written.
"""
