// SPDX-License-Identifier: Apache-2.0

// Package chart tests the Helm chart in deploy/helm/beeline with Helm itself,
// and keeps what is made from it up to date: deploy/beeline.yaml and the table
// of values in the chart's README.
package chart

//go:generate go test -run TestGeneratedFiles -update .
