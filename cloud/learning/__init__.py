"""Learning, seen from outside: what a person or a program does with jobs that the cloud coordinates.

client    ask for jobs, rounds and learners, steer them, watch them
jobfile   learn.toml and its packages -> a job specification
follow    create a job and see it to its end
local     devices of one's own, each with its share of the data
central   the same training with all the data in one place, to compare with
report    what a job did, in numbers; picture and page draw it
"""
