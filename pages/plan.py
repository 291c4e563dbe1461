"""Plan: the best configuration for every tensor under a budget, for the program that will load it."""

from quantlab.ui import jobs, plan_form, plan_rows, plan_views, state, widgets

session = state.require_checkpoint()
with widgets.boundary():
    asked = plan_form.choose(session)
    job = jobs.get(session.job)
    if job is not None and job.active:
        jobs.progress_fragment(job, lambda partial: plan_views.filling(session, partial, asked))
    else:
        results = plan_rows.found(session)
        if results is None:
            plan_rows.offer(session, asked.target, None)
        else:
            plan_views.show(session, results, asked)
            plan_rows.offer(session, asked.target, results)
